"""Every precision, against plain numpy and against the float32 model."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from glimpse_export import ExportOptions, UnsupportedError, export, plan
from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects import dialect
from glimpse_export.source import matrix
from glimpse_export.source.matrix import matrix_of
from glimpse_export.weights.file import WeightFile
from glimpse_export.weights.precision import PRECISIONS, Precision
from glimpse_export.weights.quantise import BLOCK, quantise_rows, quantised, quantised_columns
from glimpse_export.write.stages import weight_bytes
from glimpse_runtime import Pruning, load
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest

# Relative L2 distance of the first logits from the float32 model's on pocket, and how many bytes a matrix may take.
BOUNDS = {"fp32": 1e-6, "fp16": 5e-3, "bf16": 2e-2, "int8": 4e-2, "int4": 4e-1}
BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("precision")
    return {
        name: export(
            ExportOptions(
                "pocket", precision=Precision.choose(name), max_context=512, max_visual_tokens=256, certify="off"
            ),
            folder / name,
        )
        for name in PRECISIONS
    }


def test_quantised_values_are_the_nearest_ones() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((6, 300)).astype(np.float32)
    rows[2, 130] = 40.0
    for bits, top in ((4, 7), (8, 127)):
        values, scale = quantise_rows(rows, bits)
        assert (values.shape, scale.shape) == ((6, 3, BLOCK), (6, 3))
        assert not values[:, 2, 300 - 2 * BLOCK :].any(), "what fills up the last block must count nothing"
        for row in range(6):
            for block in range(3):
                part = rows[row, block * BLOCK : (block + 1) * BLOCK]
                step = scale[row, block]
                grid = np.arange(-top - 1, top + 1) * step
                nearest = np.abs(part[:, None] - grid).argmin(axis=1) - top - 1
                np.testing.assert_array_equal(values[row, block, : len(part)], nearest)
                reach = np.abs(part).max() / step
                assert min(abs(reach - top), abs(reach - 8) if bits == 4 else top) < 1e-4
        # One large value must not cost the block's others: the wider scale reaches it.
        assert abs(values[2, 1, 2] * scale[2, 1] - 40) < 0.1


@pytest.mark.parametrize("bits", [4, 8])
def test_how_rows_are_cut_into_runs_changes_no_byte(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(1).standard_normal((11, 300)).astype(np.float32)
    whole = quantised(matrix_of("m", rows), bits) + quantised_columns(matrix_of("m", rows), bits)
    for length in (1, 3, 4):
        monkeypatch.setattr(matrix, "CHUNK_VALUES", length * 300)
        assert len(list(matrix_of("m", rows).runs())) == -(-11 // length)
        again = quantised(matrix_of("m", rows), bits) + quantised_columns(matrix_of("m", rows), bits)
        for found, expected in zip(again, whole, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_onnxruntime_reads_the_same_numbers(bits: int, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(1)
    rows, x = rng.standard_normal((5, 300)).astype(np.float32), rng.standard_normal((7, 300)).astype(np.float32)
    with WeightFile(tmp_path / "w.data") as file:
        g = GraphBuilder("linear", file, 21)
        y = dialect("ort").linear(f"int{bits}").multiply(g, g.input("x", ["n", 300]), matrix_of("w", rows))
        g.output(y, "y", ["n", 5])
        g.save(tmp_path / "linear.onnx")
    session = ort.InferenceSession(str(tmp_path / "linear.onnx"), providers=["CPUExecutionProvider"])
    values, scale = quantise_rows(rows, bits)
    stored = (values * scale[..., None]).reshape(5, -1)[:, :300]
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ stored.T, atol=0.15, rtol=0.02)


@pytest.mark.parametrize("name", PRECISIONS)
def test_answers_stay_close_to_float32(bundles: dict[str, Path], name: str, photo: np.ndarray) -> None:
    def first_logits(bundle: Path) -> np.ndarray:
        seen: dict[str, np.ndarray] = {}
        with load(bundle, trace=lambda key, value: seen.setdefault(key, value.copy())) as vlm:
            # Unpruned: a token on the edge of being kept would tell more than the rounding itself.
            vlm.ask(photo, "What colour is the circle?", max_new_tokens=1, pruning=Pruning(enabled=False)).text  # noqa: B018
        return seen["logits_step"].ravel()

    exact, rounded = first_logits(bundles["fp32"]), first_logits(bundles[name])
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert error < BOUNDS[name]
    if name != "fp32":
        assert error > BOUNDS[name] / 1000, "nothing was rounded"


@pytest.mark.parametrize("name", PRECISIONS)
def test_sizes_and_manifest_follow_the_precision(bundles: dict[str, Path], name: str) -> None:
    manifest = Manifest.from_json((bundles[name] / MANIFEST_NAME).read_text(), name)
    assert manifest.precision["lower"] == name
    assert manifest.precision["score"] == "fp32"
    exact = (bundles["fp32"] / "text.data").stat().st_size
    share = (bundles[name] / "text.data").stat().st_size / exact
    assert BITS[name] / 32 <= share < BITS[name] / 32 + 0.05
    planned = weight_bytes(plan(ExportOptions("pocket", precision=Precision.choose(name))))
    assert planned == {file: manifest.files[file].bytes for file in planned}
    assert manifest.files["score.data"].bytes == (bundles["fp32"] / "score.data").stat().st_size
    cache = {tensor.dtype for tensor in manifest.graphs["ort"]["lower"].inputs if tensor.name.startswith("past.")}
    assert cache == {"float16" if name == "fp16" else "float32"}


def test_parts_have_their_own_precision(tmp_path: Path, photo: np.ndarray) -> None:
    mixed = Precision.choose("int4", vision="fp16", head="bf16", kv_cache="fp16")
    assert (mixed.vision, mixed.lower, mixed.head, mixed.kv_cache) == ("fp16", "int4", "bf16", "fp16")
    out = export(
        ExportOptions("pocket", precision=mixed, max_context=512, max_visual_tokens=256, certify="off"), tmp_path / "b"
    )
    with load(out) as vlm:
        assert vlm.ask(photo, "Is there a star?").text
        assert vlm.memory_plan()["kv_cache_bytes"] > 0


def test_int4_leaves_what_the_scorer_reads_in_eight_bits(bundles: dict[str, Path]) -> None:
    chosen = Precision.choose("int4")
    assert (chosen.vision, chosen.lower, chosen.lower_attention, chosen.upper) == ("int8", "int4", "int8", "int4")
    assert Precision.choose("int4", lower="fp16").lower_attention == "fp16"
    assert Precision.choose("fp32", lower="int4").lower_attention == "int8"
    assert Precision.choose("int4", lower_attention="int4").lower_attention == "int4"
    onnx = pytest.importorskip("onnx")
    for stage, attention in (("lower", 8), ("upper", 4)):
        graph = onnx.load(bundles["int4"] / f"{stage}.onnx", load_external_data=False).graph
        bits = {
            node.input[1]: attribute.i
            for node in graph.node
            for attribute in node.attribute
            if node.op_type == "MatMulNBits" and attribute.name == "bits"
        }
        assert {count for name, count in bits.items() if ".self_attn." in name} == {attention}
        assert {count for name, count in bits.items() if ".self_attn." not in name} == {4}


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="int3"):
        Precision.choose("int3")
    with pytest.raises(UnsupportedError, match="kv_cache"):
        Precision.choose("fp32", kv_cache="int4")
    with pytest.raises(UnsupportedError, match="parts: vision"):
        Precision.choose("fp32", scorer="fp16")
