"""The certificate: every precision passes, every sabotage is caught and named."""

import dataclasses
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.slow import few, slow

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.numpy import load_file, save_file
from support.certified import VARIANTS, sabotage, vectors_rolled, write
from support.checkpoints import write_model
from support.places import ROOT

from glimpse_export import ExportOptions, export, plan
from glimpse_export.certify import certify
from glimpse_export.certify.measures.bounds import BOUNDS, NATIVE
from glimpse_export.certify.written.weights import WeightCheck
from glimpse_export.errors import CertificateError
from glimpse_export.graphs.builder import GraphBuilder
from glimpse_export.source.adapter import Adapter
from glimpse_export.weights.precision import PRECISIONS, Precision
from glimpse_runtime.bundle.certificate import CERTIFICATE_NAME, read_certificate
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("precision", few(PRECISIONS, ["fp32", "int4"]))
def test_every_precision_passes(precision: str, golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle", precision)
    found = bundle.certify()
    assert found.passed
    assert read_certificate(bundle.folder) == found
    data = json.loads((bundle.folder / CERTIFICATE_NAME).read_text())
    assert data["passed"] is True
    assert set(data) == {
        "certificate_version",
        "manifest_sha256",
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
    parts = {"preprocess", "checkpoint", "embedding", "vision", "vision_update", "lower", "score", "select", "upper"}
    assert stages == parts | {"decode"}
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


@pytest.mark.parametrize("name", few(VARIANTS, ["no glimpse row, V2, two layers read"]))
def test_every_kind_of_model_passes(name: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", **VARIANTS[name], dtype="bfloat16")
    for precision in ("fp32", "int4"):
        assert write(model, tmp_path / precision, precision).certify("full").passed


@pytest.mark.slow
def test_one_wrong_float_is_named(golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle")
    name = "model.layers.2.mlp.up_proj.weight"
    bundle.corrupt("lower.onnx", name, lambda raw: (np.frombuffer(raw, np.float32) * [1.001, 1]).astype("f4").tobytes())
    message = str(bundle.failure())
    assert "lower, layer 2" in message
    assert f"wrong_weights {name} is 1" in message


@pytest.mark.slow
def test_one_wrong_integer_of_four_bits_is_named(golden: Path, tmp_path: Path) -> None:
    bundle = write(golden, tmp_path / "bundle", "int4")
    name = "model.layers.5.mlp.gate_proj.weight"
    bundle.corrupt("upper.onnx", name, lambda raw: bytes([raw[0] ^ 0x10]) + raw[1:])
    message = str(bundle.failure())
    assert "upper, layer 5" in message
    assert f"wrong_weights {name} is 1" in message


@pytest.mark.slow
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
        pytest.param("vision.onnx", "visual.merger.mlp.2.bias", "visual.merger.mlp.2.bias", marks=slow),
        ("vision.onnx", "visual.blocks.3.norm2.weight", "vision, layer 3"),
        pytest.param("upper.onnx", "model.norm.weight", "model.norm.weight", marks=slow),
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


@pytest.mark.slow
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


@pytest.mark.slow
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
