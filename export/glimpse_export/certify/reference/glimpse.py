"""The reference of the glimpse token and the scorer, in plain torch.

Written from the published description; it shares no code with the authors of the graphs. It aims to be obviously
right: attention within images or windows is a mask over all visual tokens, and nothing is permuted.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from glimpse_export.model.architecture import Architecture

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
_PLANE_THETA = 10000.0
_SCORER_EPS = 1e-6
_LAYER_NORM_EPS = 1e-5
_RANGE_EPS = 1e-6

Tensors = Mapping[str, torch.Tensor]
Grids = Sequence[tuple[int, int]]


def vectors(tensors: Tensors, architecture: Architecture) -> torch.Tensor:
    """(listed layers, glimpse rows, hidden): what is added to the glimpse rows before each listed layer."""
    glimpse = architecture.glimpse
    x = F.linear(tensors["learnable_embeddings"], tensors["le_proj.weight"], tensors["le_proj.bias"])
    if glimpse.norm == "rmsnorm":
        return _rms(x, tensors["le_norm.weight"], glimpse.norm_eps)
    return F.layer_norm(x, x.shape[-1:], tensors["le_norm.weight"], tensors["le_norm.bias"], _LAYER_NORM_EPS)


def attention_map(
    hidden: torch.Tensor,
    weights: Tensors,
    layer: int,
    positions: torch.Tensor,
    keys_seen: torch.Tensor,
    wanted: torch.Tensor,
    architecture: Architecture,
) -> torch.Tensor:
    """(visual tokens, heads): the attention of the last row of one prompt to its visual tokens.

    Args:
        hidden: (rows, hidden) what the layer gets.
        weights: the layer's tensors by their names in the checkpoint.
        layer: its number.
        positions: (axes, rows) rope positions.
        keys_seen: (rows,) bool, rows that the prompt consists of.
        wanted: (rows,) bool, its visual tokens.
        architecture: the model.
    """
    text, name = architecture.text, f"model.layers.{layer}"
    y = _rms(hidden, weights[f"{name}.input_layernorm.weight"], text.norm_eps)
    axis = torch.tensor([a for a, count in enumerate(text.rope_sections) for _ in range(count)])
    angles = positions[axis].T.float() * _frequencies(text.head_dim, text.rope_theta)

    def heads(part: str) -> torch.Tensor:
        prefix = f"{name}.self_attn.{part}_proj"
        x = F.linear(y, weights[f"{prefix}.weight"], weights.get(f"{prefix}.bias"))
        return _rotate(x.view(len(y), -1, text.head_dim).transpose(0, 1), angles)

    last = int(torch.nonzero(keys_seen)[-1])
    query = heads("q")[:, last]
    keys = heads("k").repeat_interleave(text.heads // text.kv_heads, 0)
    scores = torch.einsum("hd,hkd->hk", query, keys) / math.sqrt(text.head_dim)
    if architecture.glimpse.log_softmax:
        scores = scores.masked_fill(~keys_seen, -math.inf).log_softmax(-1)
    return scores[:, wanted].T


def score_input(maps: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """(visual tokens, width): the scorer's states before its first block, from (visual tokens, layers * heads)."""
    return _linear(maps, tensors, "attn_fuser.attn_in_proj")


def score_block(
    x: torch.Tensor,
    tap: torch.Tensor,
    index: int,
    tensors: Tensors,
    grid: tuple[int, int],
    architecture: Architecture,
) -> torch.Tensor:
    """Returns the scorer's states of one image after a block; grid is the image's merged (rows, columns)."""
    scorer, name = architecture.scorer, f"attn_fuser.layers.{index}"
    y = _rms(x, tensors[f"{name}.norm1.weight"], _SCORER_EPS)
    both = y
    if scorer.conditioned:
        both = torch.cat([y, _linear(tap, tensors, f"attn_fuser.cond_in_projs.{index}")], -1)
    q, k, v = (
        _linear(part, tensors, f"{name}.attn.{which}_proj").view(len(x), scorer.heads, -1).transpose(0, 1)
        for which, part in (("q", both), ("k", both), ("v", y))
    )
    rows, columns = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    inverse = _frequencies(q.shape[-1] // 2, _PLANE_THETA)
    angles = torch.cat([axis[:, None].float() * inverse for axis in (rows, columns)], 1)
    scores = _rotate(q, angles) @ _rotate(k, angles).transpose(1, 2) / math.sqrt(q.shape[-1])
    if scorer.window is not None:
        side = scorer.window
        window = (rows // side) * (columns.max() // side + 1) + columns // side
        scores = scores.masked_fill(window[:, None] != window, -math.inf)
    mixed = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
    x = x + _linear(mixed, tensors, f"{name}.attn.o_proj")
    y = _rms(x, tensors[f"{name}.norm2.weight"], _SCORER_EPS)
    gate = _ACTIVATIONS[scorer.activation](_linear(y, tensors, f"{name}.mlp.gate_proj"))
    inner = gate * _linear(y, tensors, f"{name}.mlp.up_proj")
    return x + _linear(inner, tensors, f"{name}.mlp.down_proj")


def score_output(x: torch.Tensor, tensors: Tensors, architecture: Architecture) -> torch.Tensor:
    """(visual tokens,): the logits that decide, from the last block's states."""
    return _linear(x, tensors, f"attn_fuser.attn_out_projs.{len(architecture.scorer.taps) - 1}").squeeze(-1)


def attention_row(maps: torch.Tensor, architecture: Architecture) -> torch.Tensor:
    """(visual tokens,): the mean attention of one image stretched to 0..1."""
    mean = maps.mean(1)
    part = mean.exp() if architecture.glimpse.log_softmax else mean.softmax(0)
    return (part - part.min()) / (part.max() - part.min() + _RANGE_EPS)


def kept(logits: torch.Tensor, architecture: Architecture, grids: Grids, anchors: Sequence[str]) -> torch.Tensor:
    """(visual tokens,) bool: threshold, cap, minimum, anchors; all images of the prompt count together."""
    rule = architecture.pruning
    probability = torch.sigmoid(logits)
    keep = probability > rule.threshold
    order, total = logits.argsort(descending=True, stable=True), len(logits)
    if rule.max_keep_ratio is not None and int(keep.sum()) / total > rule.max_keep_ratio:
        keep = torch.zeros_like(keep)
        keep[order[: int(rule.max_keep_ratio * total)]] = True
    if rule.min_keep is not None and int(keep.sum()) < rule.min_keep:
        keep[order[: rule.min_keep]] = True
    for corner in anchors:
        rows, columns = grids[0]
        keep.view(rows, columns)[0 if corner[0] == "t" else -1, 0 if corner[1] == "l" else -1] = True
    return keep


def _linear(x: torch.Tensor, tensors: Tensors, name: str) -> torch.Tensor:
    return F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def _rotate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turns each pair (i, i + half) of the last axis."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def _frequencies(size: int, theta: float) -> torch.Tensor:
    return 1.0 / theta ** (torch.arange(0, size, 2).float() / size)
