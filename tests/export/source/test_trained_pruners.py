"""Trained weights of pruning methods on their way from an adapter folder into a bundle."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from support.bundles import STAGES, options
from support.commands import Command, assert_one_clear_line
from support.pruners import FITTING, MISFITS

from glimpse_export import CheckpointError
from glimpse_export.exporter import carry_out, plan
from glimpse_export.forecast.text import describe
from glimpse_export.source.trained_pruners import find_files
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.cli.inspection_text import as_text
from glimpse_runtime.files.hashing import sha256_of
from glimpse_runtime.inspection import inspect
from glimpse_runtime.pruners import find, method_of, weights_file
from glimpse_runtime.pruning.weights import read_weights


def write(folder: Path, method: str, hidden: int, inner: int = 4) -> Path:
    """Weights for ``sdtp`` under the name of some method."""
    rng = np.random.default_rng(inner)
    shapes = {"w1": (hidden, inner), "b1": (inner,), "w2": (inner,), "b2": ()}
    path = folder / weights_file(method)
    np.savez(path, **{name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()})
    return path


@pytest.fixture
def hidden(model: Path) -> int:
    return int(json.loads((model / "base" / "config.json").read_text())["hidden_size"])


def test_they_are_copied_listed_and_read(model: Path, out: Path, hidden: int) -> None:
    source = write(model / "adapter", "sdtp", hidden)
    other = write(model / "adapter", "of-another-package", 7)
    outcome = carry_out(options(model), out)
    assert outcome.built == (*STAGES, "pruners")
    manifest = Bundle.open(out, verify=True).manifest
    for path in (source, other):
        assert manifest.files[path.name].sha256 == sha256_of(path) == sha256_of(out / path.name)
    found = read_weights(Bundle.open(out), find("sdtp"))
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert np.array_equal(found["w1"], np.load(source)["w1"])
    report = inspect(out)
    assert report.learned == ("of-another-package", "sdtp")
    assert "learned        of-another-package, sdtp" in as_text(report)
    assert "pruner.sdtp.npz" in describe(plan(options(model)))
    assert carry_out(options(model), out).unchanged


def test_other_weights_are_another_bundle_and_nothing_else_is_built_again(model: Path, out: Path, hidden: int) -> None:
    write(model / "adapter", "sdtp", hidden)
    first = carry_out(options(model), out)
    before = Bundle.open(first.folder).manifest
    write(model / "adapter", "sdtp", hidden, inner=5)
    carry_out(options(model, force=True), out)
    after = Bundle.open(out).manifest
    assert {name for name in after.stamps if after.stamps[name] != before.stamps[name]} == {"pruners"}
    assert {name for name in after.files if after.files[name] != before.files[name]} == {"pruner.sdtp.npz"}


def test_a_model_without_them_exports_as_ever(model: Path, out: Path) -> None:
    carry_out(options(model), out)
    assert set(Bundle.open(out).manifest.stamps) == set(STAGES)
    assert inspect(out).learned == ()
    assert "no pruning method has trained weights" in as_text(inspect(out))
    assert "learned" not in describe(plan(options(model)))


REFUSED: list[tuple[str, bytes | dict[str, np.ndarray], str]] = [
    *(("sdtp", content, part) for content, part in MISFITS),
    ("covipal", FITTING, "array k is missing"),
    ("dart", FITTING, "pruning method 'dart' takes no trained weights; move the file away"),
    ("unknown", {"any": np.array([np.inf])}, "array any holds values that are not finite"),
]


@pytest.mark.parametrize(("method", "content", "part"), REFUSED)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, method: str, content: bytes | dict[str, np.ndarray], part: str
) -> None:
    path = tmp_path / weights_file(method)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(CheckpointError) as caught:
        find_files(tmp_path, 128)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


def test_covipal_sums_widths(tmp_path: Path) -> None:
    shapes = {"q": (6, 3), "k": (6, 3), "v": (6, 3), "w1": (9, 5), "b1": (5,), "w2": (5,), "b2": ()}
    path = tmp_path / weights_file("covipal")
    np.savez(path, **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    assert find_files(tmp_path, 6) == (path,)
    np.savez(path, **{name: np.zeros(shape, np.float32) for name, shape in {**shapes, "w1": (8, 5)}.items()})
    with pytest.raises(CheckpointError, match=r"array w1 has shape \(8, 5\), it must be \(hidden\+size, inner\)"):
        find_files(tmp_path, 6)


def test_the_command_says_which_file_before_it_writes(command: Command, model: Path, out: Path, hidden: int) -> None:
    path = write(model / "adapter", "sdtp", hidden + 1)
    words = ("--model", model / "base", "--adapter", model / "adapter", "--no-tokenizer", "--out", out)
    done = command("glimpse_export.cli.export", *words)
    assert_one_clear_line(done, str(path), "array w1 has shape")
    assert not out.exists()


def test_names_of_files_and_methods() -> None:
    assert method_of(weights_file("covipal")) == "covipal"
    for name in ("manifest.json", "pruner.covipal.np", "xpruner.covipal.npz", "pruner..npz"):
        assert method_of(name) is None
