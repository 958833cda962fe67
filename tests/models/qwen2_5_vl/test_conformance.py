"""The golden vectors of the reference implementation, end to end and constant by constant."""

import shutil
from pathlib import Path

import conformance
import numpy as np
import pytest
from support.places import GOLDEN

from glimpse_export import ExportOptions, export, plan
from glimpse_export.source.adapter import Adapter
from glimpse_models.qwen2_5_vl.light.positions import vision_rope
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.inputs.rope import TextRope, token_rope

CASES = sorted(path.stem for path in (GOLDEN / "cases").glob("*.npz"))


def export_traced(out: Path, adapter: str = "adapter") -> Bundle:
    options = ExportOptions(str(GOLDEN / "base"), str(GOLDEN / adapter), tokenizer=False, trace=True, certify="off")
    return Bundle.open(export(options, out))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_traced(tmp_path_factory.mktemp("conformance") / "bundle")


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, bundle: Bundle) -> None:
    result = conformance.run_case(GOLDEN, name, bundle)
    assert not result.problems
    assert result.compared >= 14


def test_tensors_saved_on_a_gpu_are_read_on_any_machine(tmp_path: Path, bundle: Bundle) -> None:
    tagged = export_traced(tmp_path / "bundle", "adapter_cuda_tag")
    assert tagged.manifest.files == bundle.manifest.files
    assert not conformance.run_case(GOLDEN, CASES[0], tagged).problems


def test_glimpse_vectors() -> None:
    constants = np.load(GOLDEN / "constants.npz")
    glimpse = plan(ExportOptions(str(GOLDEN / "base"), str(GOLDEN / "adapter"), tokenizer=False)).architecture.glimpse
    assert list(glimpse.layers) == constants["le_layers"].tolist()
    found = Adapter(GOLDEN / "adapter").glimpse_vectors(glimpse)
    np.testing.assert_allclose(found, constants["le_vectors"], rtol=1e-5, atol=1e-5)


def test_inverse_frequencies(bundle: Bundle) -> None:
    """At position 1 the angles are the inverse frequencies themselves."""
    constants, manifest = np.load(GOLDEN / "constants.npz"), bundle.manifest
    text, second = manifest.text, 1
    cos, sin = TextRope(text.head_dim, text.rope_theta, text.rope_sections)(np.ones((3, 1), np.int64))
    found = {"llm_inv_freq": np.arctan2(sin, cos)[0]}
    # The second token of a one-column image is at row 1, column 0; so is its third patch.
    cos, sin = token_rope(Grid(4, 2, 2), manifest.scorer.head_dim, manifest.scorer.rope_theta)
    found["vip_inv_freq"] = np.arctan2(sin, cos)[second, : cos.shape[1] // 2]
    cos, sin = vision_rope(Grid(2, 2, 2), manifest.family["head_dim"], manifest.family["rope_theta"])
    found["vision_inv_freq"] = np.arctan2(sin, cos)[2, : cos.shape[1] // 2]
    for name, values in found.items():
        np.testing.assert_allclose(values, constants[name], rtol=1e-6, err_msg=name)


def test_script_prints_a_line_per_case_and_fails_on_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, name = tmp_path / "model", CASES[3]
    for part in ("base", "adapter"):
        shutil.copytree(GOLDEN / part, folder / part)
    for path in [*(GOLDEN / "images").glob(f"{name}*"), *(GOLDEN / "cases").glob(f"{name}*")]:
        target = folder / path.relative_to(GOLDEN)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    assert conformance.main([str(folder)]) == 0
    assert f"ok   model/{name}" in capsys.readouterr().out
    arrays = dict(np.load(folder / "cases" / f"{name}.npz"))
    arrays["mask_logits"][0, 0] += 0.1
    np.savez(folder / "cases" / f"{name}.npz", **arrays)
    assert conformance.main([str(folder)]) == 1
    printed = capsys.readouterr().out
    assert f"FAIL model/{name}" in printed
    assert "mask_logits: max abs difference 0.1" in printed
    assert "0 passed, 1 failed" in printed
