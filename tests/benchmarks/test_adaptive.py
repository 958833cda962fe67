"""The measurement of how many tokens are kept, and the page made from it."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from support.places import ROOT

pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from benchmarks.accuracy import adaptive
from benchmarks.accuracy.adaptive import Asked
from glimpse_models.pocket.controlled import SIDES
from glimpse_models.pocket.scenes.questions import MAX_COUNT, TYPES
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.packaged import packaged_bundle


def asked(scene: int, varied: int, relevant: int, kept: int, right: bool = True) -> Asked:
    return Asked(scene, varied, 10 * varied, relevant, kept, right, not right)


def test_the_summary_is_of_scenes() -> None:
    answers = [
        *(asked(0, 1, 4, 3), asked(0, 1, 4, 5), asked(1, 1, 2, 8)),
        *(asked(0, 2, 8, 11, right=False), asked(0, 2, 8, 13), asked(1, 2, 6, 10)),
    ]
    made = adaptive.summary(answers, "objects")
    first, second = made["rows"]
    assert (first["objects"], first["questions"], first["visual_tokens"]) == (1, 3, 10)
    assert first["relevant"] == pytest.approx(10 / 3, abs=1e-4)
    spread = np.std([4, 8], ddof=1) / np.sqrt(2)  # a scene's questions are no independent measurements
    assert first["kept"] == {"mean": 6, "standard_error": pytest.approx(spread, abs=1e-4), "median": 5}
    assert first["kept_share"] == pytest.approx((0.3 + 0.5 + 0.8) / 3, abs=1e-4)
    assert (first["exact_match"], second["exact_match"]) == (1, pytest.approx(2 / 3, abs=1e-4))
    assert (first["exact_match_unpruned"], second["exact_match_unpruned"]) == (0, pytest.approx(1 / 3, abs=1e-4))
    change = np.array([12 - 4, 10 - 8])
    assert made["kept_last_minus_first"]["mean"] == change.mean()
    assert made["kept_last_minus_first"]["standard_error"] == pytest.approx(change.std(ddof=1) / np.sqrt(2), abs=1e-4)


@pytest.mark.parametrize(("kept", "expected"), [((3, 5, 9, 30), 1.0), ((9, 5, 3, 1), -1.0), ((2, 2, 2, 2), None)])
def test_correlations_are_of_ranks(kept: tuple[int, ...], expected: float | None) -> None:
    answers = [asked(0, index + 1, 10 * (index + 1) ** 2, value) for index, value in enumerate(kept)]
    made = adaptive.summary(answers, "objects")
    assert made["rank_correlation_kept_relevant"] == made["rank_correlation_kept_visual"] == expected


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["adaptive.py", *words])
    adaptive.main()


def test_a_run_on_one_scene(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "--scenes", "1", "--json")
    report = json.loads(capsys.readouterr().out)
    counted, sized = report["by_objects"]["rows"], report["by_side"]["rows"]
    assert [row["objects"] for row in counted] == list(range(1, MAX_COUNT + 1))
    relevant = [row["relevant"] for row in counted]
    assert relevant == sorted(relevant)
    assert relevant[0] < relevant[-1]
    assert [row["side"] for row in sized] == list(SIDES)
    assert {row["questions"] for row in sized} == {len(TYPES)}
    for row in counted + sized:
        assert 1 <= row["kept"]["mean"] <= row["visual_tokens"]
        assert row["kept"]["standard_error"] is None
    whole = [row["relevant"] for row in sized if row["visual_tokens"] == (row["side"] // 28) ** 2]
    assert len(whole) > 1
    assert len(set(whole)) == 1
    text = adaptive.tables(report)
    assert "±" not in text
    assert text.count("\n| ") == 2 + len(counted) + len(sized)


def test_mistakes_get_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--scenes", "0")
    assert ended.value.code == 2
    assert "--scenes must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"^Error: there is no bundle"):
        run(monkeypatch, "--bundle", str(tmp_path / "nothing"))


def test_the_page_is_made_from_the_report() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make" / "make_adaptive.py"))["render"]()
    assert (ROOT / "docs" / "figures" / "adaptive.md").read_text() == made, "run: python docs/make/make_adaptive.py"


def test_the_report_is_of_the_packaged_weights() -> None:
    report = json.loads((ROOT / "docs" / "figures" / "adaptive.json").read_text())
    manifest = Bundle.open(packaged_bundle()).manifest
    found = (report["base_sha256"], report["adapter_sha256"], report["threshold"])
    source = manifest.model.source
    assert found == (source.base_sha256, source.adapter_sha256, manifest.pruning.threshold), (
        "run: the two commands at the end of docs/figures/adaptive.md"
    )
