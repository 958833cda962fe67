"""Bundles to certify, and mistakes to put into what wrote them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from glimpse_export import ExportOptions, export, plan
from glimpse_export.certify import certify
from glimpse_export.errors import CertificateError
from glimpse_export.weights.precision import Precision
from glimpse_runtime.bundle.certificate import CERTIFICATE_NAME, Certificate
from glimpse_runtime.bundle.manifest import MANIFEST_NAME, Manifest

Patch = pytest.MonkeyPatch


@dataclasses.dataclass
class Written:
    """A bundle that was not certified yet."""

    options: ExportOptions
    folder: Path

    @classmethod
    def export(cls, options: ExportOptions, out: Path) -> "Written":
        """Exports without certifying."""
        chosen = dataclasses.replace(options, certify="off")
        return cls(chosen, export(chosen, out))

    @property
    def manifest(self) -> Manifest:
        return Manifest.from_json((self.folder / MANIFEST_NAME).read_text(), "manifest")

    def certify(self, level: str = "quick") -> Certificate:
        return certify(plan(self.options), self.folder, self.manifest, level, lambda message: None)

    def failure(self, level: str = "quick") -> CertificateError:
        """What the certification complains of; the file says so too."""
        with pytest.raises(CertificateError) as caught:
            self.certify(level)
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

    def change_manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Changes fields of the manifest."""
        path = self.folder / MANIFEST_NAME
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))


def write(model: Path, out: Path, precision: str = "fp32", **parts: str) -> Written:
    options = ExportOptions(
        str(model / "base"),
        str(model / "adapter"),
        precision=Precision.choose(precision, **parts),
        tokenizer=False,
        certify="off",
    )
    return Written(options, export(options, out))


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


def sabotage(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: change(original, *args, **kwargs))


def other_eps(original: Any, self: Any, g: Any, x: Any, weight: Any, eps: float) -> Any:
    return original(self, g, x, weight, 0.1 if weight.name == "visual.blocks.2.norm1.weight" else eps)


def vectors_rolled(original: Any, self: Any, glimpse: Any) -> Any:
    return np.roll(original(self, glimpse), 1, axis=0)
