"""A fast forward pass over transformers' own Qwen2.5-VL parameters, for training on a CPU.

It works on batches of images of one size, whose sides are multiples of 112 pixels, and computes in the type of its
inputs (bfloat16 in training) while the parameters stay float32. Its blocks are pure functions of tensors, so that
``torch.compile`` translates one block and reuses it for every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from glimpse_models.pocket.model.config import IMAGE_MEAN, IMAGE_STD, NORM_EPS, PATCH, WINDOW, PocketConfig
from glimpse_models.pocket.model.layout import Layout

PATCH_VALUES = 3 * PATCH * PATCH
_EXPLICIT_LENGTH = 512
"""Up to this length, attention written out is faster on a CPU than the fused kernel, forward and backward."""


class VisionBlockWeights(NamedTuple):
    """Parameters of one vision block."""

    norm1: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    out_bias: Tensor
    norm2: Tensor
    gate: Tensor
    gate_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor


class DecoderLayerWeights(NamedTuple):
    """Parameters of one decoder layer."""

    norm1: Tensor
    query: Tensor
    query_bias: Tensor
    key: Tensor
    key_bias: Tensor
    value: Tensor
    value_bias: Tensor
    out: Tensor
    norm2: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


VisionBlock = Callable[[Tensor, Tensor, Tensor, VisionBlockWeights, int, int], Tensor]
DecoderLayer = Callable[[Tensor, Tensor, Tensor, Tensor, DecoderLayerWeights, int], Tensor]


def make_model(config: PocketConfig, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Build the model with an initialisation that suits its size: matrices by fan-in, token embeddings of size one."""
    torch.manual_seed(seed)
    base = {key: value for key, value in config.base_config().items() if key != "torch_dtype"}
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**base))
    depth = max(config.layers, config.vision_depth)
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name:
            nn.init.normal_(parameter, std=1.0)
        elif parameter.dim() >= 2:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            if any(part in name for part in ("o_proj", "down_proj", "attn.proj")):
                parameter.data.mul_((2 * depth) ** -0.5)
    return model


def vision_weights(model: Qwen2_5_VLForConditionalGeneration) -> list[VisionBlockWeights]:
    """Collect the parameters of the vision blocks."""
    return [
        VisionBlockWeights(
            block.norm1.weight,
            block.attn.qkv.weight,
            block.attn.qkv.bias,
            block.attn.proj.weight,
            block.attn.proj.bias,
            block.norm2.weight,
            block.mlp.gate_proj.weight,
            block.mlp.gate_proj.bias,
            block.mlp.up_proj.weight,
            block.mlp.up_proj.bias,
            block.mlp.down_proj.weight,
            block.mlp.down_proj.bias,
        )
        for block in model.model.visual.blocks
    ]


def decoder_weights(model: Qwen2_5_VLForConditionalGeneration) -> list[DecoderLayerWeights]:
    """Collect the parameters of the decoder layers."""
    return [
        DecoderLayerWeights(
            layer.input_layernorm.weight,
            layer.self_attn.q_proj.weight,
            layer.self_attn.q_proj.bias,
            layer.self_attn.k_proj.weight,
            layer.self_attn.k_proj.bias,
            layer.self_attn.v_proj.weight,
            layer.self_attn.v_proj.bias,
            layer.self_attn.o_proj.weight,
            layer.post_attention_layernorm.weight,
            layer.mlp.gate_proj.weight,
            layer.mlp.up_proj.weight,
            layer.mlp.down_proj.weight,
        )
        for layer in model.model.language_model.layers
    ]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear map in the type of ``x``."""
    return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Normalise by the root mean square, in the type of ``x``."""
    return functional.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), NORM_EPS)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply a rotary embedding; the tables broadcast against (..., head)."""
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat((-second, first), -1) * sin.to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Combine the two halves of a gated feed-forward."""
    return functional.silu(gate) * up


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend, (batch, heads, length, head) each, under an optional boolean mask (length, length)."""
    if query.shape[2] > _EXPLICIT_LENGTH:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    score = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        score = score.masked_fill(~mask, torch.finfo(score.dtype).min)
    return torch.matmul(score.softmax(-1), value)


def patchify(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Cut images into normalised patches.

    Args:
        pixels: (batch, height, width, 3) uint8, sides multiples of 112.
        dtype: Type of the result.

    Returns:
        (batch, patches, 3 * 14 * 14) in window order, each patch laid out as channel, row, column.
    """
    batch, height, width, _ = pixels.shape
    side = 2 * WINDOW * PATCH
    x = pixels.reshape(batch, height // side, WINDOW, 2, PATCH, width // side, WINDOW, 2, PATCH, 3)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 9, 4, 8).reshape(batch, -1, 3, PATCH * PATCH).float()
    mean, std = torch.tensor(IMAGE_MEAN)[:, None], torch.tensor(IMAGE_STD)[:, None]
    return ((x / 255 - mean) / std).to(dtype).reshape(batch, -1, PATCH_VALUES)


def vision_block(
    hidden: Tensor, cos: Tensor, sin: Tensor, weights: VisionBlockWeights, heads: int, window: int
) -> Tensor:
    """Run one vision block on (batch, patches, hidden) in window order; ``window`` patches attend to each other."""
    batch, patches, size = hidden.shape
    qkv = linear(rms_norm(hidden, weights.norm1), weights.qkv, weights.qkv_bias)
    query, key, value = qkv.view(batch, patches, 3, heads, size // heads).unbind(2)
    query, key = rotate(query, cos[:, None], sin[:, None]), rotate(key, cos[:, None], sin[:, None])
    query, key, value = (x.reshape(-1, window, heads, size // heads).transpose(1, 2) for x in (query, key, value))
    mixed = attention(query, key, value).transpose(1, 2).reshape(batch, patches, size)
    hidden = hidden + linear(mixed, weights.out, weights.out_bias)
    x = rms_norm(hidden, weights.norm2)
    x = swiglu(linear(x, weights.gate, weights.gate_bias), linear(x, weights.up, weights.up_bias))
    return hidden + linear(x, weights.down, weights.down_bias)


def decoder_layer(
    hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, weights: DecoderLayerWeights, heads: int
) -> Tensor:
    """Run one decoder layer on (batch, length, hidden) under a boolean attention mask (length, length)."""
    batch, length, size = hidden.shape
    head_dim = size // heads
    normed = rms_norm(hidden, weights.norm1)
    query = linear(normed, weights.query, weights.query_bias).view(batch, length, -1, head_dim).transpose(1, 2)
    key = linear(normed, weights.key, weights.key_bias).view(batch, length, -1, head_dim).transpose(1, 2)
    value = linear(normed, weights.value, weights.value_bias).view(batch, length, -1, head_dim).transpose(1, 2)
    group = heads // key.shape[1]
    key = rotate(key, cos, sin).repeat_interleave(group, 1)
    value = value.repeat_interleave(group, 1)
    mixed = attention(rotate(query, cos, sin), key, value, mask)
    return feed_forward(hidden + linear(mixed.transpose(1, 2).reshape(batch, length, size), weights.out), weights)


def feed_forward(hidden: Tensor, weights: DecoderLayerWeights) -> Tensor:
    """Run the second half of a decoder layer on (batch, length, hidden)."""
    x = rms_norm(hidden, weights.norm2)
    return hidden + linear(swiglu(linear(x, weights.gate), linear(x, weights.up)), weights.down)


class Pocket:
    """The forward pass over one model's parameters; ``compiled`` turns its blocks into native code."""

    def __init__(self, config: PocketConfig, model: Qwen2_5_VLForConditionalGeneration, compiled: bool = False) -> None:
        """Wrap ``model``; its parameters stay where they are."""
        self.config = config
        self.model = model
        self.vision_layers = vision_weights(model)
        self.decoder_layers = decoder_weights(model)
        self.vision_block: VisionBlock = vision_block
        self.decoder_layer: DecoderLayer = decoder_layer
        if compiled:
            self.vision_block = torch.compile(vision_block, dynamic=False)
            self.decoder_layer = torch.compile(decoder_layer, dynamic=False)

    def encode(self, patches: Tensor, layout: Layout, taps: Sequence[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """Run the vision tower.

        Args:
            patches: (batch, patches, values) as ``patchify`` gives them.
            layout: Tables of the image size.
            taps: Blocks whose output is wanted.

        Returns:
            Visual tokens (batch, tokens, hidden), row-major, and the taps in the order asked for, each
            (batch, tokens, vision hidden): the mean of a token's four patches.
        """
        visual = self.model.model.visual
        batch, count, _ = patches.shape
        kernel = visual.patch_embed.proj.weight.sum(2).reshape(self.config.vision_hidden_size, -1)
        hidden = linear(patches, kernel)
        tapped: dict[int, Tensor] = {}
        cos, sin = layout.vision_cos.to(patches.dtype), layout.vision_sin.to(patches.dtype)
        for index, weights in enumerate(self.vision_layers):
            window = count if index in self.config.full_attention_blocks else 4 * WINDOW * WINDOW
            hidden = self.vision_block(hidden, cos, sin, weights, self.config.vision_heads, window)
            if index in taps:
                tapped[index] = hidden.view(batch, count // 4, 4, -1).mean(2)[:, layout.to_raster]
        merger = visual.merger
        merged = rms_norm(hidden, merger.ln_q.weight).reshape(batch, count // 4, -1)
        merged = functional.gelu(linear(merged, merger.mlp[0].weight, merger.mlp[0].bias))
        merged = linear(merged, merger.mlp[2].weight, merger.mlp[2].bias)
        return merged[:, layout.to_raster], [tapped[index] for index in taps]

    def embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Look up token embeddings."""
        table = self.model.model.language_model.embed_tokens.weight
        return functional.embedding(ids, table).to(dtype)

    def row(self, prefix: Tensor, visual: Tensor, segments: Tensor) -> Tensor:
        """Assemble the rows of a batch from prefix ids, visual tokens and embedded questions."""
        batch, _, hidden = visual.shape
        start = self.embed(prefix, visual.dtype).expand(batch, -1, -1)
        return torch.cat([start, visual, segments.reshape(batch, -1, hidden)], 1)

    def decode(self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Run all decoder layers and the final norm on (batch, length, hidden)."""
        cos, sin = cos.to(hidden.dtype), sin.to(hidden.dtype)
        for weights in self.decoder_layers:
            hidden = self.decoder_layer(hidden, cos, sin, mask, weights, self.config.heads)
        return rms_norm(hidden, self.model.model.language_model.norm.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of the next token, float32."""
        return linear(hidden, self.model.lm_head.weight).float()
