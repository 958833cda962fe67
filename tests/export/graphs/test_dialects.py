"""The dialects for TensorRT, run by ONNX Runtime: golden vectors, precisions, shared weights, heads in parts."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import conformance
import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from support.bundles import options
from support.checkpoints import write_model
from support.places import GOLDEN
from support.slow import few

from glimpse_export import ExportOptions, UnsupportedError, export, plan
from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.dialects import DIALECTS, dialect
from glimpse_export.graphs.linear import head_parts
from glimpse_export.source import matrix
from glimpse_export.source.matrix import matrix_of
from glimpse_export.weights.file import WeightFile
from glimpse_export.weights.precision import PRECISIONS, Precision
from glimpse_export.weights.quantise import quantise_rows
from glimpse_export.write.stages import weight_bytes
from glimpse_models.qwen2_5_vl.heavy.limits import most_windows
from glimpse_models.qwen2_5_vl.light.patches import smart_resize
from glimpse_models.qwen2_5_vl.light.record import ImageRules
from glimpse_models.qwen2_5_vl.light.windows import token_windows
from glimpse_runtime import BackendError, BundleFormatError, Pruning, load
from glimpse_runtime.backends.ort import OrtBackend
from glimpse_runtime.bundle import memory
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.session.session import Session
from glimpse_runtime.steps.pipeline import Pipeline

FOR_TENSORRT = ("opset24", "plain")
CASES = sorted(path.stem for path in (GOLDEN / "cases").glob("*.npz"))
# Relative L2 distance of pocket's first logits from the float32 model's, as onnxruntime computes them: integers are
# multiplied with activations in eight bits there.
BOUNDS = {"fp16": 5e-3, "int8": 6e-2, "int4": 4e-1}
QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("dialects")
    return {
        name: Bundle.open(export(options(GOLDEN, dialects=(name,), trace=True), folder / name)) for name in FOR_TENSORRT
    }


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("spelling", FOR_TENSORRT)
def test_golden_vectors(spelling: str, name: str, traced: dict[str, Bundle]) -> None:
    result = conformance.run_case(GOLDEN, name, traced[spelling])
    assert not result.problems
    assert result.compared >= 14


@pytest.mark.parametrize("name", [CASES[0], CASES[5], CASES[8]])
@pytest.mark.parametrize("spelling", FOR_TENSORRT)
def test_a_prompt_in_short_runs_of_rows(
    spelling: str, name: str, traced: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "ROWS_AT_ONCE", 7)
    assert not conformance.run_case(GOLDEN, name, traced[spelling]).problems


@pytest.mark.parametrize("spelling", FOR_TENSORRT)
def test_a_cache_that_held_something_else(spelling: str, traced: dict[str, Bundle], photo: np.ndarray) -> None:
    """What a longer request has left behind the rows of a shorter one changes nothing; scenes start from a prefix."""
    image = 500
    long, short = [1, 2, *[image] * 48, *range(3, 60)], [1, 2, *[image] * 48, 7, 8, 9]

    def tokens(vlm: Session, ids: list[int]) -> list[int]:
        answer = vlm.ask_ids([photo], ids, max_new_tokens=6)
        assert answer.text == ""
        return list(answer.token_ids)

    with load(traced[spelling].folder, scene_cache_bytes=0) as vlm:
        first = tokens(vlm, short)
        assert tokens(vlm, long) != first
        assert tokens(vlm, short) == first
    with load(traced[spelling].folder) as vlm:
        assert tokens(vlm, long) != first
        assert tokens(vlm, short) == first


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Exports pocket in a dialect and a precision, once."""
    folder = tmp_path_factory.mktemp("pockets")

    @cache
    def bundle(name: str, precision: str) -> Path:
        chosen = Precision.choose(precision, gpu=True)
        asked = ExportOptions(
            "pocket", dialects=(name,), precision=chosen, max_context=512, max_visual_tokens=256, certify="off"
        )
        return export(asked, folder / f"{name}-{precision}")

    return bundle


def first_logits(bundle: Path, photo: np.ndarray) -> np.ndarray:
    seen: dict[str, np.ndarray] = {}
    with load(bundle, trace=lambda key, value: seen.setdefault(key, value.copy())) as vlm:
        # Unpruned: a token on the edge of being kept would tell more than the rounding itself.
        vlm.ask(photo, QUESTION, max_new_tokens=1, pruning=Pruning(enabled=False)).text  # noqa: B018
    return seen["logits_step"].ravel()


@pytest.mark.parametrize("precision", few(BOUNDS, ["int4"]))
@pytest.mark.parametrize("spelling", few(FOR_TENSORRT, ["plain"]))
def test_precisions_stay_close_to_float32(
    spelling: str, precision: str, pocket: Callable[[str, str], Path], photo: np.ndarray
) -> None:
    exact = first_logits(pocket("ort", "fp32"), photo)
    found = first_logits(pocket(spelling, precision), photo)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert BOUNDS[precision] / 1000 < error < BOUNDS[precision]


@pytest.mark.parametrize("spelling", FOR_TENSORRT)
def test_answers_and_scenes_equal_those_of_ort(
    spelling: str, pocket: Callable[[str, str], Path], photo: np.ndarray
) -> None:
    questions = (QUESTION, "Is there a star?", "What is left of the square?")
    with load(pocket("ort", "fp32")) as reference, load(pocket(spelling, "fp32")) as vlm:
        scene = vlm.encode(photo)
        for question in questions:
            expected = reference.ask(photo, question, max_new_tokens=8)
            found = vlm.ask(photo, question, max_new_tokens=8)
            assert found.text == expected.text == scene.ask(question, max_new_tokens=8).text
            np.testing.assert_array_equal(found.pruning.keep_masks[0], expected.pruning.keep_masks[0])


@pytest.mark.parametrize("precision", few(["fp32", "fp16", "bf16"], ["fp16"]))
def test_float_weights_are_stored_once_for_all_dialects(precision: str, golden: Path, tmp_path: Path) -> None:
    chosen = Precision.choose(precision)
    one = Bundle.open(export(options(golden, precision=chosen), tmp_path / "one")).manifest
    three = Bundle.open(export(options(golden, precision=chosen, dialects=DIALECTS[::-1]), tmp_path / "three")).manifest
    assert three.dialects == DIALECTS
    weights = [name for name in one.files if not name.endswith(".onnx")]
    assert {name: three.files[name] for name in weights} == {name: one.files[name] for name in weights}
    assert three.graphs["ort"] == one.graphs["ort"]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_integers_are_stored_once_for_both_dialects_of_tensorrt(precision: str, golden: Path, tmp_path: Path) -> None:
    chosen = Precision.choose(precision)
    sizes = {}
    for names in (("ort",), ("plain",), FOR_TENSORRT, DIALECTS):
        asked = options(golden, precision=chosen, dialects=names)
        sizes[names] = weight_bytes(plan(asked))["text.data"]
    assert sizes[FOR_TENSORRT] == sizes["plain",]
    assert max(sizes["ort",], sizes["plain",]) < sizes[DIALECTS] < sizes["ort",] + sizes["plain",]


class PlainFirst(OrtBackend):
    dialects = ("plain", "opset24")


class Tpu(OrtBackend):
    dialects = ("tpu",)


def test_a_backend_takes_the_first_dialect_it_runs(golden: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(export(options(golden, dialects=DIALECTS), tmp_path / "bundle"))
    loaded: list[str] = []

    class Watched(PlainFirst):
        def load(self, bundle: Bundle, name: str, stage: Any, state: Any) -> Any:
            loaded.append(stage.file)
            return super().load(bundle, name, stage, state)

    answers = []
    for backend in (OrtBackend(), Watched()):
        with Session(bundle, Pipeline(bundle, backend)) as vlm:
            answer = vlm.ask_ids([], [1, 2, 3], max_new_tokens=4)
            assert answer.text == ""
            answers.append(answer.token_ids)
    assert answers[0] == answers[1]
    assert len(answers[0]) > 1
    assert sorted(loaded) == ["lower.plain.onnx", "score.plain.onnx", "upper.plain.onnx", "vision.plain.onnx"]
    with pytest.raises(BundleFormatError, match="this backend runs tpu; export the model again with --dialect tpu"):
        Pipeline(bundle, Tpu())


@pytest.mark.parametrize("spelling", DIALECTS)
def test_a_cache_in_bfloat16_is_for_gpus(spelling: str, golden: Path, tmp_path: Path) -> None:
    asked = options(golden, dialects=(spelling,), precision=Precision.choose("fp32", kv_cache="bf16"))
    if spelling == "ort":
        with pytest.raises(UnsupportedError, match=r"dialect ort has no KV cache of bf16; choose .* fp32 or fp16"):
            plan(asked)
        return
    with pytest.raises(BackendError, match=r"bfloat16 .*needs? a GPU; export again with"):
        load(export(asked, tmp_path / "bundle"))


def test_the_cache_follows_the_matrices_on_gpus_alone() -> None:
    assert [Precision.choose(name).kv_cache for name in ("fp32", "fp16", "bf16", "int4")] == [
        *("fp32", "fp16", "fp32", "fp32")
    ]
    assert [Precision.choose(name, gpu=True).kv_cache for name in ("fp32", "fp16", "bf16", "int4")] == [
        *("fp32", "fp16", "bf16", "fp16")
    ]


@pytest.mark.parametrize("shape", [(6, 300), (5, 40), (7, 256)])
@pytest.mark.parametrize("bits", [4, 8])
def test_dequantised_products_are_those_of_numpy(
    bits: int, shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd outputs, inputs that do not fill their blocks, a block of zeros; written in runs of a few rows."""
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(matrix, "CHUNK_VALUES", 3 * shape[1])
    rng = np.random.default_rng(bits)
    rows, x = rng.standard_normal(shape).astype(np.float32), rng.standard_normal((9, shape[1])).astype(np.float32)
    rows[2, :128], rows[1, 3] = 0, 20
    with WeightFile(tmp_path / "w.data") as file:
        g = GraphBuilder("linear", file, 21)
        form = dialect("plain").linear(f"int{bits}")
        bias = g.vector("b", (shape[0],), lambda: np.arange(shape[0], dtype=np.float32))
        g.output(
            form.multiply(g, g.input("x", ["n", shape[1]]), matrix_of("w", rows), bias, bounded=False),
            "y",
            ["n", shape[0]],
        )
        g.save(tmp_path / "linear.onnx")
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.disable_quant_qdq", "1")  # products as written, not with rounded x
    session = ort.InferenceSession(str(tmp_path / "linear.onnx"), settings, providers=["CPUExecutionProvider"])
    values, scale = quantise_rows(rows, bits, 128 if bits == 4 else shape[1], half_scales=True)
    stored = (values * scale[..., None]).reshape(shape[0], -1)[:, : shape[1]]
    assert np.array_equal(scale, scale.astype(np.float16))
    assert (scale > 0).all()
    finest = np.repeat(scale, values.shape[2], 1)[:, : shape[1]]
    top = 7 if bits == 4 else 127
    nearest = np.clip(np.rint(rows / finest), -top - 1, top)
    assert np.array_equal(values.reshape(shape[0], -1)[:, : shape[1]], nearest)
    block = 128 if bits == 4 else shape[1]
    reach = np.maximum.reduceat(np.abs(rows), np.arange(0, shape[1], block), axis=1) / scale
    close = [np.abs(reach - whole) < whole * 2**-10 for whole in ((top, top + 1) if bits == 4 else (top,))]
    assert ((reach == 0) | np.any(close, axis=0)).all(), "scales that do not fit their blocks"
    expected = x @ stored.T + np.arange(shape[0])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=2e-2, rtol=2e-3)


def steps(bundle: Path) -> np.ndarray:
    """Returns the logits of three steps."""
    logits: list[np.ndarray] = []
    with load(bundle, trace=lambda key, value: logits.append(value.copy()) if key == "logits_step" else None) as vlm:
        assert vlm.ask_ids([], [1, 2, 3], max_new_tokens=3).text == ""
    return np.concatenate(logits)


HEADS = [("ort", name) for name in PRECISIONS] + [("plain", name) for name in PRECISIONS if name != "bf16"]


SPLIT = [*((*head, False) for head in HEADS), ("plain", "fp16", True)]


@pytest.mark.parametrize(
    ("spelling", "precision", "tied"),
    few(
        [*((*head, False) for head in HEADS), ("plain", "fp16", True)],
        [("ort", "int4", False), ("plain", "fp16", True)],
    ),
)
def test_a_head_in_parts_is_the_same_head(spelling: str, precision: str, tied: bool, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", text={"tie_word_embeddings": tied})
    found, files = [], []
    for parts in (1, 3):
        chosen = Precision.choose("fp32", head=precision)
        asked = options(model, dialects=(spelling,), precision=chosen, head_parts=parts)
        bundle = export(asked, tmp_path / f"{parts}")
        files.append(Bundle.open(bundle).manifest.files["text.data"])
        found.append(steps(bundle))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)
    if spelling == "ort" or precision in ("fp32", "fp16", "bf16"):
        assert files[0] == files[1], "the parts are of the same bytes"


def test_parts_of_a_head() -> None:
    assert head_parts(1000, 1, 8) == [(0, 1000)]
    assert head_parts(151936, 2, 4096) == [(0, 75968), (75968, 151936)]
    assert head_parts(152064, 4, 7168) == [(0, 38016), (38016, 76032), (76032, 114048), (114048, 152064)]
    assert head_parts(11, 3, 8) == [(0, 2), (2, 6), (6, 11)]
    with pytest.raises(UnsupportedError, match="10 rows cannot be multiplied in 6 parts"):
        head_parts(10, 6, 8)


@pytest.mark.parametrize("limit", [1, 5, 64, 256, 1024, 3584])
@pytest.mark.parametrize("side", [1, 2, 4, 5])
def test_no_image_has_more_windows_than_the_profile(limit: int, side: int) -> None:
    rules = ImageRules(14, 2, 2, 784, limit * 784, (0.5,) * 3, (0.5,) * 3, 1 / 255)
    rng = np.random.default_rng(limit * 10 + side)
    most = most_windows(limit, side)
    found = 0
    for _ in range(3000):
        short = int(np.exp(rng.uniform(np.log(8), np.log(900))))
        sides = (short, int(short * np.exp(rng.uniform(0, np.log(200)))))
        height, width = smart_resize(*(sides if rng.random() < 0.5 else sides[::-1]), rules)
        grid = Grid(height // 14, width // 14, 2)
        if grid.visual_tokens <= limit:
            found = max(found, len(token_windows(grid, side * 28, 14).keys))
    assert most / 2 <= found <= most
