"""The glimpse token and its scorer, the visual importance predictor: modules and training forward.

Parameter names and shapes are those of the published adapters (``new_modules_gp.pt``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from glimpse_models.pocket.config import NORM_EPS, PocketConfig
from glimpse_models.pocket.data import Batch
from glimpse_models.pocket.layout import Layout, scorer_rotary
from glimpse_models.pocket.model import DecoderLayerWeights, Pocket, attention, linear, rms_norm, rotate, swiglu


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


def insert_glimpse(ids: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Cut segments after the prompt and mark where the glimpse token goes.

    Args:
        ids: (batch, questions, segment).
        last: (batch, questions) index of the last prompt token.

    Returns:
        The ids, one longer, with a hole for the glimpse token (what follows it is never seen by it), and
        a one-hot marker of the hole, (batch, questions, segment + 1).
    """
    longer = functional.pad(ids, (0, 1))
    return longer, functional.one_hot(last + 1, longer.shape[-1])


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
            layout: Tables for segments one longer than the batch's.
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
        ids, marker = insert_glimpse(batch.ids, batch.last)
        rows = pocket.row(prefix, visual, pocket.embed(ids, dtype))
        images, questions, _ = ids.shape
        at_glimpse = functional.pad(marker.reshape(images, -1), (layout.start, 0)).to(dtype)[..., None]
        vectors = self.modules.vectors().to(dtype)
        hidden = rows * (1 - at_glimpse)
        cos, sin = (table.to(dtype) for table in rotary)
        maps: list[Tensor] = []
        for index, weights in enumerate(layers[: config.reduce_layer + 1]):
            if index in config.glimpse_layers:
                hidden = hidden + at_glimpse * vectors[config.glimpse_layers.index(index)]
            if index in config.selected_layers:
                maps.append(self._attention(weights, hidden, at_glimpse, cos, sin, layout))
            if index < config.reduce_layer:
                hidden = pocket.decoder_layer(hidden, cos, sin, layout.mask, weights, config.heads)
        attention = torch.cat(maps, 2).transpose(2, 3).reshape(images * questions, layout.tokens, -1)
        repeated = [tap.repeat_interleave(questions, 0) for tap in taps]
        tables = [table.to(dtype) for table in scorer_rotary(config, layout.rows, layout.columns)]
        if cells is not None:
            tables = [table[cells].repeat_interleave(questions, 0)[:, None] for table in tables]
        grid_cos, grid_sin = tables
        return self.score(attention, repeated, grid_cos, grid_sin).float()

    def _attention(
        self,
        weights: DecoderLayerWeights,
        hidden: Tensor,
        at_glimpse: Tensor,
        cos: Tensor,
        sin: Tensor,
        layout: Layout,
    ) -> Tensor:
        """Return the glimpse rows' scaled attention logits to the image, (batch, questions, heads, tokens)."""
        config = self.pocket.config
        batch, head_dim = hidden.shape[0], config.head_dim
        normed = rms_norm(hidden, weights.norm1)
        rows = at_glimpse[..., 0].nonzero()[:, 1].view(batch, layout.questions)
        query = linear(
            normed.gather(1, rows[..., None].expand(-1, -1, normed.shape[-1])), weights.query, weights.query_bias
        ).view(batch, layout.questions, config.heads, head_dim)
        # The places of the text are the same in every row of the batch, whatever has entered before them.
        text_cos, text_sin = (table.reshape(-1, *table.shape[-2:])[0] for table in (cos, sin))
        query = rotate(query, text_cos[rows][:, :, None], text_sin[rows][:, :, None])
        image = slice(layout.prefix, layout.start)
        key = linear(normed[:, image], weights.key, weights.key_bias)
        key = key.view(batch, layout.tokens, config.kv_heads, head_dim).transpose(1, 2)
        key = rotate(key, cos[..., image, :], sin[..., image, :]).repeat_interleave(config.heads // config.kv_heads, 1)
        scores: Tensor = torch.matmul(query.transpose(1, 2), key.mT) * head_dim**-0.5
        return scores.transpose(1, 2)
