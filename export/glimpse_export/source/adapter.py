"""Reads a GlimpsePrune adapter: ``new_modules_gp.pt``, a torch zip of plain tensors."""

from pathlib import Path
from typing import Any

import numpy as np

from glimpse_export.errors import CheckpointError
from glimpse_export.model.architecture import Architecture, Glimpse
from glimpse_export.source.checkpoint import check_shapes
from glimpse_runtime.arrays import Array, FloatArray

_TORCH_FILE = "new_modules_gp.pt"


_DTYPES = ("float32", "float16", "bfloat16", "float64")
# attn_fuser.layers.0.mlp.gate_proj.weight is one dictionary in another.
_DEEPEST = 8


class Adapter:
    """The adapter's weights.

    Attributes:
        path: its file.
        tensors: float32, by their dotted names such as ``attn_fuser.attn_in_proj.weight``.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the file.

        Raises:
            CheckpointError: it is missing or cannot be read.
        """
        self.path = folder / _TORCH_FILE
        if not self.path.is_file():
            raise CheckpointError(f"{self.path} is missing; name the adapter's folder with --adapter")
        self.tensors = _flatten(_load_torch(self.path))
        for name, tensor in self.tensors.items():
            if not np.isfinite(tensor).all():
                raise CheckpointError(f"{self.path}: tensor {name} holds values that are not finite")

    def check(self, architecture: Architecture) -> None:
        """Compares names and shapes with what the configuration asks for.

        Raises:
            CheckpointError: naming the first tensor that is missing or misshapen.
        """
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        # Parts of training that inference leaves out: outputs of earlier scorer layers, V2's unused condition.
        check_shapes(expected_tensors(architecture), shapes, str(self.path), ".attn_out_projs.", ".cond_in_projs.")

    def scorer(self, name: str) -> FloatArray:
        """Returns one tensor of the scorer."""
        return self.tensors[f"attn_fuser.{name}"]

    def glimpse_vectors(self, glimpse: Glimpse) -> FloatArray:
        """Returns le_norm(le_proj(learnable_embeddings)): (listed layers, glimpse rows, hidden) float32.

        Row j belongs to the j-th entry of ``le_layers``, whatever layer that is.
        """
        raw = self.tensors["learnable_embeddings"]
        x = raw @ self.tensors["le_proj.weight"].T + self.tensors["le_proj.bias"]
        weight = self.tensors["le_norm.weight"]
        if glimpse.norm == "rmsnorm":
            scaled = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(glimpse.norm_eps))
            return np.asarray(scaled * weight, np.float32)
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(glimpse.norm_eps))
        return np.asarray(scaled * weight + self.tensors["le_norm.bias"], np.float32)


def expected_tensors(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of every adapter tensor that inference needs."""
    scorer, glimpse, hidden = architecture.scorer, architecture.glimpse, architecture.text.hidden_size
    size, qk = scorer.size, scorer.qk_size
    maps = len(glimpse.selected_layers) * architecture.text.heads
    shapes: dict[str, tuple[int, ...]] = {
        "attn_fuser.attn_in_proj.weight": (size, maps),
        "attn_fuser.attn_in_proj.bias": (size,),
    }
    last = len(scorer.taps) - 1
    shapes[f"attn_fuser.attn_out_projs.{last}.weight"] = (1, size)
    shapes[f"attn_fuser.attn_out_projs.{last}.bias"] = (1,)
    for index in range(len(scorer.taps)):
        if scorer.conditioned:
            condition = f"attn_fuser.cond_in_projs.{index}"
            shapes[f"{condition}.weight"] = (scorer.condition_size, architecture.vision.hidden_size)
            shapes[f"{condition}.bias"] = (scorer.condition_size,)
        layer = f"attn_fuser.layers.{index}"
        shapes |= {f"{layer}.norm1.weight": (size,), f"{layer}.norm2.weight": (size,)}
        shapes |= {f"{layer}.attn.{name}_proj.weight": (qk, qk) for name in "qk"}
        shapes |= {f"{layer}.attn.{name}_proj.weight": (size, size) for name in "vo"}
        for name, rows, columns in (
            ("gate", 2 * size, size),
            ("up", 2 * size, size),
            ("down", size, 2 * size),
        ):
            shapes[f"{layer}.mlp.{name}_proj.weight"] = (rows, columns)
            shapes[f"{layer}.mlp.{name}_proj.bias"] = (rows,)
    if glimpse.length:
        shapes["learnable_embeddings"] = (len(glimpse.layers), glimpse.length, hidden)
        shapes |= {"le_proj.weight": (hidden, hidden), "le_proj.bias": (hidden,), "le_norm.weight": (hidden,)}
        if glimpse.norm == "layernorm":
            shapes["le_norm.bias"] = (hidden,)
    return shapes


def _load_torch(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        raise CheckpointError(f'reading {path} needs torch; run: pip install "glimpse-edge[export]"') from None
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere in torch's parser
        raise CheckpointError(
            f"{path} is damaged or not a plain weight file ({_reason(error)}); download it again"
        ) from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not hold a dictionary of modules; download it again")
    return data


def _flatten(data: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, FloatArray]:
    flat: dict[str, FloatArray] = {}
    if depth > _DEEPEST:
        raise CheckpointError(f"adapter entry {prefix[:60]} is nested too deeply, or holds itself; download it again")
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flatten(value, f"{name}.", depth + 1)
        elif hasattr(value, "detach"):
            flat[name] = _as_array(value, name)
        else:
            raise CheckpointError(f"adapter entry {name} is a {type(value).__name__}, not a tensor")
    return flat


def _as_array(tensor: Any, name: str) -> FloatArray:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in _DTYPES:
        raise CheckpointError(
            f"adapter entry {name} is stored as {kind}; {', '.join(_DTYPES)} are read: save the adapter unquantised"
        )
    try:
        held_bytes = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > held_bytes:  # before they are unfolded
            raise CheckpointError(
                f"adapter entry {name} has shape {tuple(tensor.shape)}, and the file only {held_bytes} bytes of it; "
                "save its contiguous()"
            )
        array: Array = tensor.detach().float().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantized or without data
        raise CheckpointError(f"adapter entry {name} is not a plain tensor of numbers ({_reason(error)})") from None
    return array


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
