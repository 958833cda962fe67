"""Mistakes in the graphs and in the runtime: the certificate catches and names them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.slow import few

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.certified import other_eps, sabotage, vectors_rolled, write

from glimpse_export.errors import CertificateError
from glimpse_export.graphs.decoder import DecoderAuthor
from glimpse_export.graphs.dialects.ort import OrtAttention
from glimpse_export.source.adapter import Adapter
from glimpse_models.qwen2_5_vl.heavy.vision import VisionAuthor
from glimpse_models.qwen2_5_vl.light import family as light
from glimpse_runtime.inputs.rope import TextRope

Patch = pytest.MonkeyPatch


def without_bias(original: Any, self: Any, g: Any, x: Any, name: str, *rest: Any, **options: Any) -> Any:
    if name == "model.layers.2.self_attn.q_proj":
        options["bias"] = False
    return original(self, g, x, name, *rest, **options)


def twice_the_bias(original: Any, self: Any, g: Any, x: Any, name: str, *rest: Any, **options: Any) -> Any:
    y = original(self, g, x, name, *rest, **options)
    if name == "model.layers.1.self_attn.v_proj":
        y = g.op("Add", y, g.read_vector(self._checkpoint, f"{name}.bias"))
    return y


def neighbours_mlp(original: Any, self: Any, g: Any, x: Any, layer: int) -> Any:
    value = original(self, g, x, layer ^ 1)
    value.name = f"layer.{layer}.mlp"
    return value


def taps_backwards(original: Any, self: Any, *args: Any, **options: Any) -> None:
    original(self, *args, **options)
    self._taps = self._taps[::-1]


def half_attention(original: Any, self: Any, *args: Any) -> Any:
    g, value = args[0], original(self, *args)
    return g.op("Mul", value, g.scalar(0.5))


def alone(original: Any, self: Any, g: Any, q: Any, k: Any, v: Any, *rest: Any) -> Any:
    """The changed patches see each other and not the rest of the image."""
    original(self, g, q, k, v, *rest)
    return self.attend(g, q, k, v)


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
    "an update that forgets": (OrtAttention, "attend_updated", alone, "vision_update"),
    "half the attention": (
        DecoderAuthor,
        "_glimpse_attention",
        half_attention,
        "lower, layer 3: attention_graph_error",
    ),
}


@pytest.mark.parametrize("name", few(MUTANTS, ["a bias dropped", "taps out of order", "an update that forgets"]))
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
    "rope axes": (TextRope, "__init__", axes_mixed, "lower, layer 0: graph_error"),
    "pixels": (light, "patchify", brighter, "preprocess: different_pixel_values"),
    "positions": (light, "mrope_positions", lambda o, *a: o(*a) + 1, "preprocess: different_positions"),
}


@pytest.mark.parametrize("name", few(RUNTIME_MUTANTS, ["rope axes", "positions"]))
def test_a_wrong_runtime_is_named(name: str, golden: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    bundle = write(golden, tmp_path / "bundle")
    sabotage(monkeypatch, *RUNTIME_MUTANTS[name][:3])
    with pytest.raises(CertificateError, match=RUNTIME_MUTANTS[name][3]):
        bundle.certify()


@pytest.mark.slow
def test_wrong_windows_are_named(golden: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    bundle = write(golden, tmp_path / "bundle")
    sabotage(monkeypatch, light, "vision_rope", tables_transposed)
    assert "vision, layer 0: graph_error" in str(bundle.failure())
