"""The certificate of LLaVA-1.5: every precision and dialect passes, every mistake is found and named."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from llava_models import GOLDEN, TOWER, copy_model
from support.certified import Written, sabotage

from glimpse_export import ExportOptions, plan
from glimpse_export.certify import certify
from glimpse_export.errors import CertificateError
from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.decoder import DecoderAuthor
from glimpse_export.graphs.dialects.ort import OrtDialect
from glimpse_export.source.adapter import Adapter
from glimpse_export.weights.precision import PRECISIONS, Precision
from glimpse_models.llava_1_5.heavy import configuration, tower
from glimpse_models.llava_1_5.heavy.vision import VisionAuthor
from glimpse_models.llava_1_5.light import family as light
from glimpse_models.llava_1_5.light import patches
from glimpse_models.llava_1_5.light.record import ImageRules
from glimpse_runtime.bundle.certificate import Certificate
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest

HF = "base_llava_hf"
DIALECTS = (("ort",), ("opset24", "plain"))
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Tiny models are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write(out: Path, precision: str = "fp32", layout: str = "base", dialects: tuple[str, ...] = ("ort",)) -> Written:
    options = ExportOptions(
        str(GOLDEN / layout),
        str(GOLDEN / "adapter"),
        vision_tower=str(GOLDEN / TOWER) if layout == "base" else None,
        precision=Precision.choose(precision, gpu="ort" not in dialects, vision=precision),
        dialects=dialects,
        tokenizer=False,
    )
    return Written.export(options, out)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The golden model in full precision, not certified."""
    return write(tmp_path_factory.mktemp("llava") / "bundle")


@pytest.fixture
def bundle(exported: Written, tmp_path: Path) -> Written:
    """A copy of it that a test may change."""
    return Written(exported.options, Path(shutil.copytree(exported.folder, tmp_path / "bundle")))


def some_slow(names: Iterable[str], *quick: str) -> list[Any]:
    """All names; those that are not quick only run with all tests."""
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in names]


def figures(certificate: Certificate, measure: str) -> list[float]:
    return [check.value for check in certificate.checks if check.measure == measure]


def test_a_bundle_passes(bundle: Written) -> None:
    found = bundle.certify("full")
    assert found.passed
    stages = {check.stage for check in found.checks}
    assert stages == {"preprocess", "checkpoint", "embedding", "vision", "lower", "score", "select", "upper", "decode"}
    assert {check.layer for check in found.checks if check.stage == "vision"} == {None, 0, 1, 2, 3}
    assert figures(found, "different_pixel_values") == [0, 0, 0]
    assert figures(found, "different_positions") == [0, 0, 0], "no prompt shows two images"
    assert figures(found, "tokens") == [3 * 8]
    assert len(figures(found, "tap_graph_error")) == 4 * 3
    assert str(GOLDEN) not in found.to_json()


@pytest.mark.slow
@pytest.mark.parametrize("dialects", DIALECTS, ids=" ".join)
@pytest.mark.parametrize(
    ("precision", "layout"), [*((precision, "base") for precision in PRECISIONS), ("fp32", HF), ("int4", HF)]
)
def test_every_precision_passes(precision: str, layout: str, dialects: tuple[str, ...], tmp_path: Path) -> None:
    found = write(tmp_path / "bundle", precision, layout, dialects).certify("full" if precision == "fp32" else "quick")
    assert found.passed
    parts = {check.stage.partition(".")[2] for check in found.checks if check.stage.startswith("vision")}
    assert parts == ({""} if dialects == ("ort",) else set(dialects))
    if precision != "fp32":
        least = {"fp16": 1e-4, "bf16": 1e-3, "int8": 1e-3, "int4": 1e-2}[precision]
        assert max(figures(found, "layer_error")) > least, "nothing was rounded"


def test_both_layouts_have_the_same_weights(tmp_path: Path) -> None:
    """The files of golden llavaA hold the same model twice; llava-hf's vocabulary is longer."""
    found = [write(tmp_path / layout, layout=layout).certify() for layout in ("base", HF)]
    taps = [figures(certificate, "tap_3_relative_l2") for certificate in found]
    assert taps[0] == taps[1] != [0]


def test_prompts_are_compared_with_the_original_s(tmp_path: Path, monkeypatch: Patch) -> None:
    pytest.importorskip("sentencepiece")
    from sentencepiece_files import write_model

    model = copy_model(tmp_path / "model")
    write_model(model / "base" / "tokenizer.model")
    (model / "base" / "tokenizer_config.json").write_text(json.dumps({"legacy": False}))
    bundle = Written.export(ExportOptions(str(model / "base"), str(model / "adapter")), tmp_path / "bundle")
    found = bundle.certify("full")
    assert found.passed
    assert figures(found, "different_tokens") == [0, 0, 0]
    bundle.change_manifest(lambda data: data["prompt"].update(user_open="USER:"))
    assert "does not read text as transformers does" in str(bundle.failure())


def changed(raw: bytes) -> bytes:
    return np.array([3, -3], np.float32).tobytes()


CORRUPTIONS: dict[str, tuple[str, str, str]] = {
    "class token": ("vision.onnx", "vision_model.embeddings.class_embedding", "vision: wrong_weights"),
    "place of a patch": ("vision.onnx", "vision_model.embeddings.position_embedding.weight", "vision: wrong_weights"),
    "first norm": ("vision.onnx", "vision_model.pre_layrnorm.bias", "vision: wrong_weights"),
    "tower": ("vision.onnx", "vision_model.encoder.layers.2.mlp.fc1.weight", "vision, layer 2: wrong_weights"),
    "tower's bias": ("vision.onnx", "vision_model.encoder.layers.3.mlp.fc2.bias", "vision, layer 3: wrong_weights"),
    "projector": ("vision.onnx", "model.mm_projector.2.weight", "vision: wrong_weights"),
    "decoder": ("lower.onnx", "model.layers.1.self_attn.q_proj.weight", "lower, layer 1: wrong_weights"),
    "scorer": ("score.onnx", "layers.1.attn.q_proj.weight", "score: wrong_weights attn_fuser."),
    "head": ("upper.onnx", "lm_head.weight", "upper: wrong_weights"),
}


@pytest.mark.parametrize("name", some_slow(CORRUPTIONS, "class token", "projector"))
def test_corrupted_weights_are_named(name: str, bundle: Written) -> None:
    graph, weight, where = CORRUPTIONS[name]
    bundle.corrupt(graph, weight, changed)
    message = str(bundle.failure())
    assert where in message
    assert weight in message


@pytest.mark.slow
def test_a_wrong_embedding_row_is_named(bundle: Written) -> None:
    with (bundle.folder / "embed_tokens.bin").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    assert "embedding: wrong_weights" in str(bundle.failure())


def taps_before(original: Any, self: Any, *args: Any, **options: Any) -> None:
    """Reads what enters a block where the scorer wants what leaves it."""
    original(self, *args, **options)
    self._taps = tuple(tap - 1 for tap in self._taps)


def smooth_gelu(original: Any, self: Any, g: Any, x: Any, kind: str) -> Any:
    return original(self, g, x, "gelu" if kind == "quick_gelu" else kind)


def quick_everywhere(original: Any, self: Any, g: Any, x: Any, kind: str) -> Any:
    return original(self, g, x, "quick_gelu" if kind == "gelu" else kind)


def no_class_token(original: Any, self: Any, g: Any) -> Any:
    return g.op("Slice", original(self, g), g.integers(1), g.integers(1 << 62), g.integers(1))


def class_token_kept(original: Any, self: Any, g: Any, h: Any) -> Any:
    rows = g.op("Slice", h, g.integers(0), g.integers(-1), g.integers(1))
    return g.reshape(rows, -1, self._vision.hidden_size)


def class_token_last(original: Any, self: Any, g: Any) -> Any:
    rows = original(self, g)
    first = g.op("Slice", rows, g.integers(0), g.integers(1), g.integers(1))
    others = g.op("Slice", rows, g.integers(1), g.integers(1 << 62), g.integers(1))
    return g.op("Concat", others, first, axis=1)


def neighbours_block(original: Any, self: Any, g: Any, h: Any, block: int, *rest: Any) -> Any:
    return original(self, g, h, block ^ 1, *rest)


def neighbours_mlp(original: Any, self: Any, g: Any, x: Any, layer: int) -> Any:
    value = original(self, g, x, layer ^ 1)
    value.name = f"layer.{layer}.mlp"
    return value


def other_eps(original: Any, self: Any, x: Any, weight: Any, bias: Any, eps: float) -> Any:
    changed = weight.name == "vision_model.encoder.layers.2.layer_norm1.weight"
    return original(self, x, weight, bias, 0.1 if changed else eps)


def half_attention(original: Any, self: Any, g: Any, scores: Any) -> Any:
    return g.op("Mul", original(self, g, scores), g.scalar(0.5))


def vectors_rolled(original: Any, self: Any, glimpse: Any) -> Any:
    return np.roll(original(self, glimpse), 1, axis=0)


MUTANTS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "a wrong tap": (VisionAuthor, "__init__", taps_before, "vision, layer [0-3]: tap_graph_error"),
    "no quick GELU": (OrtDialect, "activation", smooth_gelu, "vision, layer 0: graph_error"),
    "quick GELU in the projector": (OrtDialect, "activation", quick_everywhere, "vision: image_embeds_graph_error"),
    "no class token": (VisionAuthor, "_embed", no_class_token, "vision: different_rows is 1"),
    "the class token is a visual token": (VisionAuthor, "_without_class", class_token_kept, "vision.*_graph_error"),
    "the class token behind the patches": (VisionAuthor, "_embed", class_token_last, "vision: patch_embed_graph_error"),
    "blocks swapped": (VisionAuthor, "_block", neighbours_block, "vision, layer 0: graph_error"),
    "layers swapped": (DecoderAuthor, "_mlp", neighbours_mlp, "lower, layer 0: graph_error"),
    "another epsilon": (GraphBuilder, "layer_norm", other_eps, "vision, layer 2: graph_error"),
    "half the attention": (DecoderAuthor, "_glimpse_attention", half_attention, "layer 3: attention_graph_error"),
    "wrong glimpse vectors": (Adapter, "glimpse_vectors", vectors_rolled, "lower, layer 0: wrong_weights glimpse.0"),
}


@pytest.mark.parametrize("name", some_slow(MUTANTS, "a wrong tap", "no class token"))
def test_a_wrong_graph_is_named(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    owner, attribute, change, expected = MUTANTS[name]
    with monkeypatch.context() as patch:
        sabotage(patch, owner, attribute, change)
        bundle = write(tmp_path / "bundle")
    with pytest.raises(CertificateError, match=expected):
        bundle.certify()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("off_by", "expected"),
    [(1, "checkpoint: unknown_weight vision_model.encoder.layers.4"), (-1, "vision, layer 3: missing_weight")],
)
def test_states_counted_wrongly_are_named(off_by: int, expected: str, tmp_path: Path, monkeypatch: Patch) -> None:
    """The reference counts hidden states by itself: a mistake in reading the configuration does not pass."""
    for module in (configuration, tower):
        sabotage(monkeypatch, module, "block_of", lambda original, *given: original(*given) + off_by)
    assert expected in str(write(tmp_path / "bundle").failure())


def black(self: ImageRules) -> tuple[int, ...]:
    return (0, 0, 0)


def corner(original: Any, image: Any, colour: Any) -> Any:
    return original(image.crop((0, 0, *[max(image.size)] * 2)), colour)


RUNTIME_MUTANTS: dict[str, tuple[Any, str, Any, str]] = {
    "another padding colour": (ImageRules, "pad_colour", property(black), "preprocess: different_pixel_values"),
    "an image in the corner": (*(patches, "_padded"), corner, "preprocess: different_pixel_values"),
    "positions": (light, "text_positions", lambda o, *a: o(*a) + 1, "preprocess: different_positions"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIME_MUTANTS)
def test_a_wrong_runtime_is_named(name: str, bundle: Written, monkeypatch: Patch) -> None:
    owner, attribute, change, expected = RUNTIME_MUTANTS[name]
    if isinstance(change, property):
        monkeypatch.setattr(owner, attribute, change)
    else:
        sabotage(monkeypatch, owner, attribute, change)
    with pytest.raises(CertificateError, match=expected):
        bundle.certify()


@pytest.mark.slow
def test_another_rope_theta_is_named(bundle: Written) -> None:
    bundle.change_manifest(lambda data: data["text"].update(rope_theta=500000.0))
    assert "lower, layer 0: graph_error" in str(bundle.failure())


@pytest.mark.slow
def test_a_tensor_without_a_place_is_named(bundle: Written) -> None:
    checked = plan(bundle.options)
    checked.checkpoint.shapes["vision_model.encoder.layers.1.self_attn.q_norm.weight"] = (4,)
    manifest = Manifest.from_json((bundle.folder / MANIFEST_NAME).read_text(), "manifest")
    with pytest.raises(CertificateError, match=r"unknown_weight vision_model.encoder.layers.1.self_attn.q_norm.weight"):
        certify(checked, bundle.folder, manifest, "quick", lambda message: None)
