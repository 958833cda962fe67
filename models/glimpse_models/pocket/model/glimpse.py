"""The glimpse token and its scorer, the visual importance predictor: modules and training forward.

Parameter names and shapes are those of the published adapters (``new_modules_gp.pt``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glimpse_models.pocket.model.batch import Batch
from glimpse_models.pocket.model.config import NORM_EPS, PocketConfig
from glimpse_models.pocket.model.layout import Layout, scorer_rotary
from glimpse_models.pocket.model.model import (
    DecoderLayerWeights,
    Pocket,
    attention,
    feed_forward,
    linear,
    rms_norm,
    rotate,
    swiglu,
)


class _Linear(nn.Linear):
    """A linear map computed in the type of its input."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class _Attention(nn.Module):
    """Self-attention whose queries and keys also see the vision tower's features."""

    def __init__(self, size: int, condition: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = _Linear(size + condition, size + condition, bias=False)
        self.k_proj = _Linear(size + condition, size + condition, bias=False)
        self.v_proj = _Linear(size, size, bias=False)
        self.o_proj = _Linear(size, size, bias=False)

    def forward(self, hidden: Tensor, condition: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        steered = torch.cat([hidden, condition], -1)
        query = self._split(self.q_proj(steered))
        key = self._split(self.k_proj(steered))
        value = self._split(self.v_proj(hidden))
        mixed = attention(rotate(query, cos, sin), rotate(key, cos, sin), value)
        result: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(hidden.shape))
        return result

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _FeedForward(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.gate_proj = _Linear(size, 2 * size)
        self.up_proj = _Linear(size, 2 * size)
        self.down_proj = _Linear(2 * size, size)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        return result


class _ScorerLayer(nn.Module):
    def __init__(self, size: int, condition: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(size, eps=NORM_EPS), nn.RMSNorm(size, eps=NORM_EPS)
        self.attn = _Attention(size, condition, heads)
        self.mlp = _FeedForward(size)

    def forward(self, hidden: Tensor, condition: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        hidden = hidden + self.attn(rms_norm(hidden, self.norm1.weight), condition, cos, sin)
        mixed: Tensor = hidden + self.mlp(rms_norm(hidden, self.norm2.weight))
        return mixed


class _AttnFuser(nn.Module):
    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        size, condition = config.scorer_size, config.scorer_condition_size
        self.attn_in_proj = _Linear(config.heads * len(config.selected_layers), size)
        self.cond_in_projs = nn.ModuleList(_Linear(config.vision_hidden_size, condition) for _ in config.vision_taps)
        self.layers = nn.ModuleList(_ScorerLayer(size, condition, config.scorer_heads) for _ in config.vision_taps)
        last = len(config.vision_taps) - 1
        self.attn_out_projs = nn.ModuleDict({str(last): _Linear(size, 1)})

    def forward(self, scores: Tensor, taps: list[Tensor], cos: Tensor, sin: Tensor) -> Tensor:
        hidden = self.attn_in_proj(scores)
        for projection, layer, tap in zip(self.cond_in_projs, self.layers, taps, strict=True):
            hidden = layer(hidden, projection(tap), cos, sin)
        (out,) = self.attn_out_projs.values()
        logits: Tensor = out(hidden)[..., 0]
        return logits


class GlimpseModules(nn.Module):
    """Everything that an adapter adds to the base model."""

    def __init__(self, config: PocketConfig, seed: int = 0) -> None:
        """Initialise the modules; the same seed gives the same weights."""
        super().__init__()
        torch.manual_seed(seed)
        self.config = config
        hidden = config.hidden_size
        self.learnable_embeddings = nn.Parameter(torch.randn(len(config.glimpse_layers), 1, hidden) * 0.02)
        self.le_proj = _Linear(hidden, hidden)
        self.le_norm = nn.RMSNorm(hidden, eps=NORM_EPS)
        self.attn_fuser = _AttnFuser(config)
        for name, parameter in self.named_parameters():
            if "norm" in name or name == "learnable_embeddings":
                continue
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def vectors(self) -> Tensor:
        """Return the glimpse vectors, (glimpse layers, hidden)."""
        embedded = self.le_proj(self.learnable_embeddings[:, 0])
        return rms_norm(embedded, self.le_norm.weight)

    def score(self, attention: Tensor, taps: list[Tensor], cos: Tensor, sin: Tensor) -> Tensor:
        """Run the scorer.

        Args:
            attention: (batch, tokens, selected layers * heads), layer-major.
            taps: For each scorer layer (batch, tokens, vision hidden).
            cos: Rotary table, (tokens, head).
            sin: The same, sines.

        Returns:
            One logit per visual token, (batch, tokens).
        """
        logits: Tensor = self.attn_fuser(attention, taps, cos, sin)
        return logits


class GlimpseForward:
    """Scores the visual tokens of a batch for each question, on top of a frozen base model."""

    def __init__(self, pocket: Pocket, modules: GlimpseModules, compiled: bool = False) -> None:
        """Combine the base's forward pass with the glimpse modules."""
        self.pocket, self.modules = pocket, modules
        self.score = torch.compile(modules.score, dynamic=False) if compiled else modules.score

    def __call__(
        self, layout: Layout, rotary: tuple[Tensor, Tensor], prefix: Tensor, patches: Tensor, batch: Batch
    ) -> Tensor:
        """Encode patches, (batch, patches, values), with the base model frozen, and score: see ``logits``."""
        with torch.no_grad():
            visual, taps = self.pocket.encode(patches, layout, self.pocket.config.vision_taps)
        return self.logits(layout, rotary, prefix, visual, taps, batch)

    def logits(
        self,
        layout: Layout,
        rotary: tuple[Tensor, Tensor],
        prefix: Tensor,
        visual: Tensor,
        taps: list[Tensor],
        batch: Batch,
        layers: Sequence[DecoderLayerWeights] | None = None,
        cells: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of the visual tokens, (batch * questions, tokens).

        Args:
            layout: Tables of the batch's rows.
            rotary: The text rotary tables of a row, each (length, head), or (batch, 1, length, head).
            prefix: Ids before the image.
            visual: (batch, tokens, hidden).
            taps: Outputs of vision blocks, each (batch, tokens, vision hidden).
            batch: Its questions.
            layers: Parameters of the decoder layers (default the base model's).
            cells: Places of the tokens on the grid, (batch, tokens), where not all of it enters layer 0.
        """
        config, pocket, dtype = self.pocket.config, self.pocket, visual.dtype
        layers = pocket.decoder_layers if layers is None else layers
        hidden = pocket.row(prefix, visual, pocket.embed(batch.ids, dtype))
        cos, sin = (table.to(dtype) for table in rotary)
        images, questions, _ = batch.ids.shape
        last = layout.start + layout.segment * torch.arange(questions) + batch.last
        # The places of the text are the same in every row of the batch, whatever has entered before them.
        after = [table.reshape(-1, *table.shape[-2:])[0][last + 1][:, :, None] for table in (cos, sin)]
        glimpse, vectors = hidden.new_zeros(images, questions, config.hidden_size), self.modules.vectors().to(dtype)
        maps: list[Tensor] = []
        for index, weights in enumerate(layers[: config.reduce_layer + 1]):
            if index in config.glimpse_layers:
                glimpse = glimpse + vectors[config.glimpse_layers.index(index)]
            look = _Look(config, weights, hidden, (cos, sin), glimpse, (after[0], after[1]))
            if index in config.selected_layers:
                maps.append(look.scores[..., layout.prefix : layout.start])
            if index < config.reduce_layer:
                glimpse = feed_forward(glimpse + look.attend(layout.mask[last]), weights)
                hidden = pocket.decoder_layer(hidden, cos, sin, layout.mask, weights, config.heads)
        attention = torch.cat(maps, 1).permute(0, 2, 3, 1).reshape(images * questions, layout.tokens, -1)
        repeated = [tap.repeat_interleave(questions, 0) for tap in taps]
        tables = [table.to(dtype) for table in scorer_rotary(config, layout.rows, layout.columns)]
        if cells is not None:
            tables = [table[cells].repeat_interleave(questions, 0)[:, None] for table in tables]
        grid_cos, grid_sin = tables
        return self.score(attention, repeated, grid_cos, grid_sin).float()


class _Look:
    """What the glimpse tokens of a batch see of their rows in one decoder layer.

    They have rows of their own, since no other row sees them: where the base is frozen, nothing but the glimpse's way
    is differentiated.

    Attributes:
        scores: (batch, heads, questions, length) scaled products of the glimpse's queries with the keys of all rows.
    """

    def __init__(
        self,
        config: PocketConfig,
        weights: DecoderLayerWeights,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        glimpse: Tensor,
        after: tuple[Tensor, Tensor],
    ) -> None:
        """Compute the scores.

        Args:
            config: The architecture.
            weights: Of the layer.
            hidden: (batch, length, hidden) rows.
            rotary: Their tables, (length, head) or (batch, 1, length, head).
            glimpse: (batch, questions, hidden).
            after: Its tables, (batch, questions, 1, head).
        """
        self._weights, self._group, self._size = weights, config.heads // config.kv_heads, config.head_dim
        self._after = after
        self._rows, self._own = rms_norm(hidden, weights.norm1), rms_norm(glimpse, weights.norm1)
        query = rotate(self._split(linear(self._own, weights.query, weights.query_bias)), *after)
        self._query = query * self._size**-0.5
        key = self._split(linear(self._rows, weights.key, weights.key_bias)).transpose(1, 2)
        key = rotate(key, *rotary).repeat_interleave(self._group, 1)
        self.scores = self._query.transpose(1, 2) @ key.mT

    def attend(self, seen: Tensor) -> Tensor:
        """Return the attention's output for the glimpse tokens, (batch, questions, hidden).

        Args:
            seen: (batch, questions, length) which rows they may attend to, beside themselves.
        """
        weights = self._weights
        key = rotate(self._split(linear(self._own, weights.key, weights.key_bias)), *self._after)
        own_score = (self._query * key.repeat_interleave(self._group, 2)).sum(-1, keepdim=True)
        scores = self.scores.masked_fill(~seen[:, None], torch.finfo(self.scores.dtype).min)
        shares = torch.cat([scores, own_score.transpose(1, 2)], -1).softmax(-1)
        value = self._split(linear(self._rows, weights.value, weights.value_bias)).transpose(1, 2)
        own_value = self._split(linear(self._own, weights.value, weights.value_bias))
        mixed = shares[..., :-1] @ value.repeat_interleave(self._group, 1)
        mixed = mixed + shares[..., -1:] * own_value.repeat_interleave(self._group, 2).transpose(1, 2)
        return linear(mixed.transpose(1, 2).flatten(2), weights.out)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self._size)
