"""The certificate: every precision passes, every sabotage is caught and named."""

import dataclasses
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import onnx
import torch
from conftest import ROOT
from factory import write_model
from glimpse_export.graphs.vision import VisionAuthor
from safetensors.numpy import load_file, save_file

from glimpse_export import ExportOptions, export, plan
from glimpse_export.certify import certify
from glimpse_export.certify.measures.bounds import BOUNDS, NATIVE
from glimpse_export.certify.trials import inputs
from glimpse_export.certify.written.weights import WeightCheck
from glimpse_export.errors import CertificateError
from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.graphs.decoder import DecoderAuthor
from glimpse_export.source.adapter import Adapter
from glimpse_export.weights.precision import PRECISIONS, Precision
from glimpse_runtime.bundle.certificate import CERTIFICATE_NAME, Certificate, read_certificate
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from glimpse_runtime.inputs import positions

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Tiny models are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclasses.dataclass
class Written:
    """A bundle that was not certified yet."""

    options: ExportOptions
    folder: Path

    @property
    def manifest(self) -> Manifest:
        return Manifest.from_json((self.folder / MANIFEST_NAME).read_text(), "manifest")

    def certify(self, level: str = "quick") -> Certificate:
        return certify(plan(self.options), self.folder, self.manifest, level, lambda message: None)

    def failure(self) -> CertificateError:
        with pytest.raises(CertificateError) as caught:
            self.certify()
        written = json.loads((self.folder / CERTIFICATE_NAME).read_text())
        assert written["passed"] is False
        assert caught.value.certificate is not None
        return caught.value

    def corrupt(self, graph: str, weight: str, change: Callable[[bytes], bytes]) -> None:
        """Changes the first bytes of a weight in its file."""
        proto = onnx.load(self.folder / graph, load_external_data=False).graph
        tensor = next(tensor for tensor in proto.initializer if tensor.name == weight)
        place = {entry.key: entry.value for entry in tensor.external_data}
        with (self.folder / place["location"]).open("r+b") as file:
            file.seek(int(place["offset"]))
            found = file.read(8)
            file.seek(int(place["offset"]))
            file.write(change(found))


def write(model: Path, out: Path, precision: str = "fp32", **parts: str) -> Written:
    options = ExportOptions(
        str(model / "base"),
        str(model / "adapter"),
        precision=Precision.choose(precision, **parts),
        tokenizer=False,
        certify="off",
    )
    return Written(options, export(options, out))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_passes(precision: str, golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle", precision)
    found = bundle.certify()
    assert found.passed
    assert read_certificate(bundle.folder) == found
    data = json.loads((bundle.folder / CERTIFICATE_NAME).read_text())
    assert data["passed"] is True
    assert set(data) == {
        "certificate_version",
        "level",
        "passed",
        "command",
        "versions",
        "precision",
        "files",
        "checks",
    }
    assert set(data["files"]) == {path.name for path in bundle.folder.iterdir()} - {CERTIFICATE_NAME, MANIFEST_NAME}
    assert str(golden) not in json.dumps(data)
    stages = {check.stage for check in found.checks}
    assert stages == {"preprocess", "checkpoint", "embedding", "vision", "lower", "score", "select", "upper", "decode"}
    assert {check.layer for check in found.checks if check.stage == "lower"} == {None, 0, 1, 2, 3}
    layers = [check.value for check in found.checks if check.measure == "layer_error"]
    assert precision in ("fp32", "bf16") or max(layers) > 1e-5, "nothing was rounded"
    assert bundle.certify().to_json() == found.to_json()


def test_the_whole_certificate_of_a_model_with_a_tokenizer(tmp_path: Path) -> None:
    options = ExportOptions("pocket", precision=Precision.choose("int8"), certify="full")
    folder = export(options, tmp_path / "bundle")
    manifest = Manifest.from_json((folder / MANIFEST_NAME).read_text(), "manifest")
    assert CERTIFICATE_NAME in manifest.files
    data = json.loads((folder / CERTIFICATE_NAME).read_text())
    assert data["command"].startswith("glimpse-export --model pocket --vision-precision int8")
    figures: dict[str, list[float]] = {}
    for check in data["checks"]:
        figures.setdefault(check["measure"], []).append(check["value"])
    assert figures["tokens"] == [32]
    assert figures["equal_tokens"][0] >= 30
    assert figures["different_tokens"] == [0, 0, 0, 0]
    assert figures["different_pixel_values"] == [0, 0, 0]


VARIANTS: dict[str, dict[str, Any]] = {
    "windows, log-softmax, two glimpse rows": {
        "vision": {"window_size": 84},
        "glimpse": {
            "attn_fuse_global": False,
            "use_attention_logits": False,
            "le_length": 2,
            "le_norm_type": "layernorm",
        },
    },
    "no glimpse row, V2, two layers read": {
        "glimpse": {
            "le_layers": [],
            "attn_fuse_type": "AttnFuserV2",
            "reduce_layer": 2,
            "selected_layers": [2, 0],
            "ori_attn_supervision": True,
            "max_remain_ratio": 0.3,
        }
    },
    "pruned behind the last layer, tied": {
        "text": {"tie_word_embeddings": True},
        "glimpse": {"reduce_layer": 1000, "selected_layers": [3], "anchor_positions": ["tl"]},
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_model_passes(name: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", **VARIANTS[name], dtype="bfloat16")
    for precision in ("fp32", "int4"):
        assert write(model, tmp_path / precision, precision).certify("full").passed


def test_one_wrong_float_is_named(golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle")
    name = "model.layers.2.mlp.up_proj.weight"
    bundle.corrupt("lower.onnx", name, lambda raw: (np.frombuffer(raw, np.float32) * [1.001, 1]).astype("f4").tobytes())
    message = str(bundle.failure())
    assert "lower, layer 2" in message
    assert f"wrong_weights {name} is 1" in message


def test_one_wrong_integer_of_four_bits_is_named(golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle", "int4")
    name = "model.layers.5.mlp.gate_proj.weight"
    bundle.corrupt("upper.onnx", name, lambda raw: bytes([raw[0] ^ 0x10]) + raw[1:])
    message = str(bundle.failure())
    assert "upper, layer 5" in message
    assert f"wrong_weights {name} is 1" in message


def test_attention_in_fewer_bits_than_the_manifest_says_is_named(golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle", "int4", lower_attention="int4")
    bundle.certify()
    path = bundle.folder / MANIFEST_NAME
    data = json.loads(path.read_text())
    data["precision"]["lower_attention"] = "int8"
    path.write_text(json.dumps(data))
    assert "lower, layer 0: wrong_weights model.layers.0.self_attn" in str(bundle.failure())


@pytest.mark.parametrize(
    ("graph", "weight", "where"),
    [
        ("score.onnx", "layers.1.mlp.up_proj.weight", "attn_fuser.layers.1.mlp.up_proj.weight"),
        ("vision.onnx", "visual.merger.mlp.2.bias", "visual.merger.mlp.2.bias"),
        ("vision.onnx", "visual.blocks.3.norm2.weight", "vision, layer 3"),
        ("upper.onnx", "model.norm.weight", "model.norm.weight"),
    ],
)
def test_other_weights_are_named(graph: str, weight: str, where: str, golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle")
    bundle.corrupt(graph, weight, lambda raw: np.array([3, -3], np.float32).tobytes())
    assert where in str(bundle.failure())


def test_a_wrong_scale_is_named(golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle", "int8")
    name = "visual.blocks.1.mlp.down_proj.weight"
    bundle.corrupt("vision.onnx", f"{name}.scale", lambda raw: (np.frombuffer(raw, "f4") * 1.5).astype("f4").tobytes())
    assert f"vision, layer 1: wrong_weights {name}" in str(bundle.failure())


def test_a_wrong_embedding_row_is_found(golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle")
    with (bundle.folder / "embed_tokens.bin").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")
    assert "embed_tokens" in str(bundle.failure()) or "embedding" in str(bundle.failure())


def sabotage(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: change(original, *args, **kwargs))


def without_bias(original: Any, self: Any, g: Any, x: Any, name: str, *rest: Any, **options: Any) -> Any:
    if name == "model.layers.2.self_attn.q_proj":
        options["bias"] = False
    return original(self, g, x, name, *rest, **options)


def twice_the_bias(original: Any, self: Any, g: Any, x: Any, name: str, *rest: Any, **options: Any) -> Any:
    y = original(self, g, x, name, *rest, **options)
    if name == "model.layers.1.self_attn.v_proj":
        y = g.op("Add", y, self._vector(g, f"{name}.bias"))
    return y


def neighbours_mlp(original: Any, self: Any, g: Any, x: Any, layer: int) -> Any:
    value = original(self, g, x, layer ^ 1)
    value.name = f"layer.{layer}.mlp"
    return value


def other_eps(original: Any, self: Any, g: Any, x: Any, weight: Any, eps: float) -> Any:
    return original(self, g, x, weight, 0.1 if weight.name == "visual.blocks.2.norm1.weight" else eps)


def taps_backwards(original: Any, self: Any, *args: Any, **options: Any) -> None:
    original(self, *args, **options)
    self._taps = self._taps[::-1]


def vectors_rolled(original: Any, self: Any, glimpse: Any) -> Any:
    return np.roll(original(self, glimpse), 1, axis=0)


def half_attention(original: Any, self: Any, *args: Any) -> Any:
    g, value = args[0], original(self, *args)
    return g.op("Mul", value, g.scalar(0.5))


MUTANTS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "a bias dropped": (
        DecoderAuthor,
        "_linear",
        without_bias,
        "lower, layer 2: missing_weight model.layers.2.self_attn.q_proj.bias",
    ),
    "a bias twice": (DecoderAuthor, "_linear", twice_the_bias, "lower, layer 1: graph_error"),
    "layers swapped": (DecoderAuthor, "_mlp", neighbours_mlp, "lower, layer 0: graph_error"),
    "another epsilon": (None, "rms_norm", other_eps, "vision, layer 2: graph_error"),
    "taps out of order": (VisionAuthor, "__init__", taps_backwards, "vision, layer [0-9]: tap_graph_error"),
    "wrong glimpse vectors": (Adapter, "glimpse_vectors", vectors_rolled, "lower, layer 0: wrong_weights glimpse.0"),
    "half the attention": (
        DecoderAuthor,
        "_glimpse_attention",
        half_attention,
        "lower, layer 3: attention_graph_error",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_graph_is_named(name: str, golden: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    from glimpse_export.graphs.dialects.ort import OrtDialect

    owner, attribute, change, expected = MUTANTS[name]
    with monkeypatch.context() as patch:
        sabotage(patch, owner or OrtDialect, attribute, change)
        bundle = write(golden, tmp_path / "bundle")
    with pytest.raises(CertificateError, match=expected):
        bundle.certify()


def axes_mixed(original: Any, self: Any, head_dim: int, theta: float, sections: Any) -> None:
    original(self, head_dim, theta, sections[::-1])


def tables_transposed(original: Any, grid: Any, head_dim: int, theta: float) -> Any:
    return tuple(np.roll(table, 1, axis=0) for table in original(grid, head_dim, theta))


def brighter(original: Any, image: Any, rules: Any) -> Any:
    found = original(image, rules)
    return dataclasses.replace(found, pixel_values=found.pixel_values + np.float32(1e-6))


RUNTIME_MUTANTS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "rope axes": (positions.TextRope, "__init__", axes_mixed, "lower, layer 0: graph_error"),
    "pixels": (inputs, "patchify", brighter, "preprocess: different_pixel_values"),
    "positions": (inputs, "mrope_positions", lambda o, *a: o(*a) + 1, "preprocess: different_positions"),
}


@pytest.mark.parametrize("name", RUNTIME_MUTANTS)
def test_a_wrong_runtime_is_named(name: str, golden: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    bundle = write(golden, tmp_path / "bundle")
    sabotage(monkeypatch, *RUNTIME_MUTANTS[name][:3])
    with pytest.raises(CertificateError, match=RUNTIME_MUTANTS[name][3]):
        bundle.certify()


def test_wrong_windows_are_named(golden: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    from glimpse_export.certify.checks import vision

    bundle = write(golden, tmp_path / "bundle")
    sabotage(monkeypatch, vision, "vision_rope", tables_transposed)
    assert "vision, layer 0: graph_error" in str(bundle.failure())


def test_an_overflow_of_fp16_is_named(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    path = model / "base" / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.self_attn.k_proj.bias"] += np.float32(1e5)
    save_file(weights, path)
    assert write(model, tmp_path / "fp32").certify().passed
    bundle = write(model, tmp_path / "fp16", "fp16")
    message = str(bundle.failure())
    assert "lower, layer 1: values are not finite" in message
    assert "higher precision" in message


def test_a_tensor_without_a_place_is_named(golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle")
    checked = plan(bundle.options)
    checked.checkpoint.shapes["model.layers.0.self_attn.q_norm.weight"] = (4,)
    with pytest.raises(CertificateError, match=r"unknown_weight model.layers.0.self_attn.q_norm.weight"):
        certify(checked, bundle.folder, bundle.manifest, "quick", lambda message: None)


def test_one_layer_is_in_memory_at_a_time(golden: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    bundle = write(golden, tmp_path / "bundle", "int4")
    alive: list[weakref.ref[Any]] = []
    most = 0
    original = WeightCheck.originals

    def counted(self: WeightCheck, names: Any) -> dict[str, torch.Tensor]:
        nonlocal most, alive
        alive = [ref for ref in alive if ref() is not None]
        most = max(most, len(alive))
        found = original(self, names)
        alive += [weakref.ref(tensor) for tensor in found.values()]
        return found

    monkeypatch.setattr(WeightCheck, "originals", counted)
    bundle.certify()
    assert most == 0


def test_the_bundle_appears_only_when_certified(golden: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    sabotage(monkeypatch, Adapter, "glimpse_vectors", vectors_rolled)
    options = ExportOptions(str(golden / "base"), str(golden / "adapter"), tokenizer=False)
    with pytest.raises(CertificateError, match="glimpse"):
        export(options, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_unnamed_places_are_reported(golden: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:
        sabotage(
            patch,
            GraphBuilder,
            "mark",
            lambda original, self, x, name: x if name == "block.2" else original(self, x, name),
        )
        bundle = write(golden, tmp_path / "bundle")
    assert "no value 'block.2'" in str(bundle.failure())


def test_the_bounds_in_the_documents_are_the_code_s() -> None:
    lines = (ROOT / "docs" / "bundle" / "certificate.md").read_text().splitlines()
    native = {f"native {name}": bounds for name, bounds in NATIVE.items() if bounds != BOUNDS[name]}
    for precision, bounds in {**BOUNDS, **native}.items():
        values = [getattr(bounds, field.name) for field in dataclasses.fields(bounds)]
        cells = ["-" if value is None else f"{value:g}" for value in values]
        assert f"| {precision} | {' | '.join(cells)} |" in lines
