"""LLaVA-1.5's golden vectors, end to end and constant by constant, in every dialect."""

from pathlib import Path

import conformance
import numpy as np
import pytest
from llava_models import GOLDEN, golden_options

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from glimpse_export import export, plan
from glimpse_export.graphs.dialects import DIALECTS
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.rope import TextRope, token_rope

CASES = sorted(path.stem for path in (GOLDEN / "cases").glob("*.npz"))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("llava") / "bundle"
    return Bundle.open(export(golden_options(dialects=tuple(DIALECTS), trace=True), out))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("spelling", DIALECTS)
def test_case(spelling: str, name: str, traced: Bundle) -> None:
    result = conformance.run_case(GOLDEN, name, conformance.in_dialect(traced, spelling))
    assert not result.problems
    assert result.compared >= 11


def test_glimpse_vectors() -> None:
    constants, checked = np.load(GOLDEN / "constants.npz"), plan(golden_options())
    assert list(checked.architecture.glimpse.layers) == constants["le_layers"].tolist()
    found = checked.adapter.glimpse_vectors(checked.architecture.glimpse)
    np.testing.assert_allclose(found, constants["le_vectors"], rtol=1e-5, atol=1e-5)


def test_inverse_frequencies_and_the_colour_of_the_padding(traced: Bundle) -> None:
    """At position 1 the angles are the inverse frequencies themselves."""
    constants, text, scorer = np.load(GOLDEN / "constants.npz"), traced.manifest.text, traced.manifest.scorer
    cos, sin = TextRope(text.head_dim, text.rope_theta, text.rope_sections)(np.ones((1, 1), np.int64))
    np.testing.assert_allclose(np.arctan2(sin, cos)[0], constants["llm_inv_freq"], rtol=1e-6)
    cos, sin = token_rope(Grid(2, 1, 1), scorer.head_dim, scorer.rope_theta)
    np.testing.assert_allclose(np.arctan2(sin, cos)[1, : cos.shape[1] // 2], constants["vip_inv_freq"], rtol=1e-6)
    assert plan(golden_options()).images.pad_colour == tuple(constants["pad_colour"])


def test_the_script_runs_the_other_layout_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for part in ("base", "base_llava_hf", "adapter", "openai", "images"):
        (folder / part).symlink_to(GOLDEN / part)
    (folder / "cases").mkdir()
    for path in (GOLDEN / "cases").glob("A06*"):
        (folder / "cases" / path.name).write_bytes(path.read_bytes())
    assert conformance.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "ok   model/A06_no_selection of base_llava_hf" in printed
    assert "2 passed, 0 failed" in printed
    (case,) = (folder / "cases").glob("*.npz")
    arrays = dict(np.load(case))
    arrays["logits_first"][3] += 0.1
    np.savez(case, **arrays)
    assert conformance.main([str(folder)]) == 1
    assert "0 passed, 2 failed" in capsys.readouterr().out
