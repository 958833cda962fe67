"""Finished stages of an export are built again when what writes them has changed, and not for a help text."""

from pathlib import Path

import pytest
from rooms import reachable
from sources import modules

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from glimpse_export.write import stamps
from glimpse_models.families import FAMILIES, heavy

FACTS = ("glimpse_export.planning", "glimpse_export.write", "glimpse_export.errors")
"""What decides about a stage by values that stand in its stamp, or about nothing in its bytes."""


@pytest.fixture(params=[family.MODEL_TYPES[0] for family in FAMILIES])
def counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """The files that count for stages of weights and graphs."""
    found: list[Path] = []
    monkeypatch.setattr(stamps, "code_of", lambda paths: found.extend(paths) or "")
    stamps.writers_code(heavy(request.param).FAMILY)  # type: ignore[union-attr]
    return set(found)


def test_whatever_writes_weights_and_graphs_counts(counted: set[Path]) -> None:
    reached = {name for name in reachable("glimpse_export.write.stages") if name.startswith("glimpse_export.")}
    writing = {name for name in reached if not name.startswith(FACTS)} | {"glimpse_export.write.stages"}
    missing = {name for name in writing if modules()[name] not in counted}
    assert not missing


def test_the_family_counts_too(counted: set[Path]) -> None:
    folders = {folder for path in counted for folder in path.parts}
    assert len(folders & {family.__name__.rpartition(".")[2] for family in FAMILIES}) == 1


def test_what_a_user_reads_does_not_count(counted: set[Path]) -> None:
    rooms = {path.parent.name for path in counted} | {path.name for path in counted}
    assert not rooms & {"cli", "forecast", "certify", "engines", "exporter.py"}


def test_docstrings_and_comments_do_not_count(tmp_path: Path) -> None:
    def code(text: str, name: str) -> str:
        path = tmp_path / name / "room" / "module.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return stamps.code_of((path,))

    one = code('"""One."""\n\n\ndef f():\n    """Two."""\n    return 1\n', "a")
    assert code('"""Another."""\n\n\ndef f():\n    """Text."""\n    return 1  # why\n', "b") == one
    assert code('"""One."""\n\n\ndef f():\n    """Two."""\n    return 2\n', "c") != one
