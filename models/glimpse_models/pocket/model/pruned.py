"""The forward pass of a pruned prompt, for training: the image is read whole below the split, and in part above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glimpse_models.pocket.model.layout import Layout
from glimpse_models.pocket.model.model import DecoderLayerWeights, Pocket, rms_norm


@dataclass(frozen=True)
class Kept:
    """The visual tokens that stay, as many places for every question.

    Attributes:
        index: (batch, questions, places) tokens in ascending order.
        valid: The same shape: which places hold a token; the others are never seen.
    """

    index: Tensor
    valid: Tensor

    def mask(self, tokens: int) -> Tensor:
        """Return the keep mask, (batch, questions, tokens)."""
        mask = torch.zeros(*self.index.shape[:2], tokens, dtype=torch.bool)
        return mask.scatter(2, self.index, self.valid)


def choose(logits: Tensor, cap: float, threshold: float) -> Kept:
    """Keep what scores above the threshold, the best share ``cap`` at most, and at least the best token.

    Args:
        logits: (batch, questions, tokens).
        cap: ``max_remain_ratio``.
        threshold: ``reduce_threshold``.
    """
    places = max(1, int(cap * logits.shape[-1]))
    best, index = logits.sigmoid().topk(places, -1)
    valid = best > threshold
    valid[..., 0] = True
    index, order = index.sort(-1)
    return Kept(index, valid.gather(-1, order))


def decode_pruned(
    pocket: Pocket,
    layers: Sequence[DecoderLayerWeights],
    layout: Layout,
    rotary: tuple[Tensor, Tensor],
    rows: Tensor,
    last: Tensor,
    kept: Kept,
) -> Tensor:
    """Run all decoder layers and the final norm on a batch of pruned prompts with their answers.

    Up to the split a prompt sees the whole image, so that the questions share its rows; an answer sees what was kept,
    since the KV cache below the split is compacted too. Above the split every question has rows of its own.

    Args:
        pocket: The base model.
        layers: Parameters of its decoder layers.
        layout: The rows' layout.
        rotary: The text rotary tables of a row, each (length, head).
        rows: (batch, length, hidden) as ``Pocket.row`` gives them.
        last: (batch, questions) index of the last prompt token.
        kept: What stays for each question.

    Returns:
        (batch, questions, segment, hidden).
    """
    config = pocket.config
    cos, sin = (table.to(rows.dtype) for table in rotary)
    hidden, mask = rows, _lower_mask(layout, last, kept)
    split = config.reduce_layer + 1
    for weights in layers[:split]:
        hidden = pocket.decoder_layer(hidden, cos, sin, mask, weights, config.heads)
    batch, questions, places = kept.index.shape
    shape = (batch, questions, -1, config.hidden_size)
    image, segments = hidden[:, layout.prefix : layout.start], hidden[:, layout.start :].reshape(shape)
    gathered = image.gather(1, kept.index.reshape(batch, -1, 1).expand(-1, -1, config.hidden_size)).view(shape)
    prefix = hidden[:, None, : layout.prefix].expand(-1, questions, -1, -1)
    hidden = torch.cat([prefix, gathered, segments], 2).flatten(0, 1)
    cos, sin = (_upper_rotary(table, layout, kept) for table in (cos, sin))
    mask = _upper_mask(layout, kept)
    for weights in layers[split:]:
        hidden = pocket.decoder_layer(hidden, cos, sin, mask, weights, config.heads)
    hidden = rms_norm(hidden[:, layout.prefix + places :], pocket.model.model.language_model.norm.weight)
    return hidden.view(shape)


def _lower_mask(layout: Layout, last: Tensor, kept: Kept) -> Tensor:
    """Return what each position may attend to below the split, (batch, 1, length, length)."""
    batch = len(last)
    in_prompt = torch.arange(layout.segment) <= last[..., None]
    seen = in_prompt[..., None] | kept.mask(layout.tokens)[:, :, None]
    mask = layout.mask.repeat(batch, 1, 1)
    mask[:, layout.start :, layout.prefix : layout.start] &= seen.reshape(batch, -1, layout.tokens)
    return mask[:, None]


def _upper_rotary(table: Tensor, layout: Layout, kept: Kept) -> Tensor:
    """Return the rotary table of every question's own rows, (batch * questions, 1, rows, head)."""
    index = kept.index.flatten(0, 1)
    image = table[layout.prefix : layout.start][index]
    first, text = table[: layout.prefix], table[layout.start : layout.start + layout.segment]
    return torch.cat([first.expand(len(index), -1, -1), image, text.expand(len(index), -1, -1)], 1)[:, None]


def _upper_mask(layout: Layout, kept: Kept) -> Tensor:
    """Return what each position may attend to above the split, (batch * questions, 1, rows, rows)."""
    valid = kept.valid.flatten(0, 1)
    shown = torch.ones(len(valid), layout.prefix + valid.shape[1] + layout.segment, dtype=torch.bool)
    shown[:, layout.prefix : layout.prefix + valid.shape[1]] = valid
    causal = torch.ones(shown.shape[1], shown.shape[1], dtype=torch.bool).tril()
    return (causal & shown[:, None] | torch.eye(shown.shape[1], dtype=torch.bool))[:, None]
