"""The weights of the decoder, scaled for sane activations."""

import math
import re
from collections.abc import Sequence

import numpy as np

from benchmarks.export.checkpoints.draw import Recipe, draw, stream_of
from benchmarks.export.checkpoints.residual import MARK, Residual
from glimpse_export.model.architecture import Architecture

SHARPNESS = 1.3
"""Size of queries and keys: scores of standard deviation 1.7, attention over some dozens of rows."""
LOGIT_STD = 3.0
EMBEDDING_STD = 0.02
ROW_SPREAD = 0.3
UNUSED_ROWS = 0.05
MIXED = 0.5
"""Size of attention-weighted values of unit size."""
SILU_GATED = 0.6
"""Size of ``silu(x) * y`` for x, y of unit size."""
QUERY_BIAS = 4.0
KEY_BIAS = (2.0, 4.0)
HUGE_KEY_BIAS = (60.0, 200.0)
VALUE_BIAS, EARLY_VALUE_BIAS = 0.1, 0.5
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


class Decoder:
    """Recipes of ``model.*`` and ``lm_head``."""

    def __init__(self, architecture: Architecture, words: int, marked: Sequence[int], seed: int) -> None:
        """Prepares.

        Args:
            architecture: the model.
            words: number of entries of the tokenizer; the embedding table may have more rows.
            marked: ids of the tokens that carry massive channels.
            seed: of the weights.
        """
        self._text = architecture.text
        self._words = words
        self._seed = seed
        text = architecture.text
        self._marked = marked
        self._residual = Residual(
            width=text.hidden_size,
            depth=text.layers,
            start=EMBEDDING_STD,
            first=0.15,
            last=3.0,
            loud=(15.0, -8.0) if text.qkv_bias else (),
            varied=5.0,
            massive=(1000.0, -400.0),
            seed=seed,
            name="text",
        )

    def recipe(self, name: str) -> Recipe:
        """Returns the recipe of one tensor."""
        hidden, residual = self._text.hidden_size, self._residual
        if name == "model.norm.weight":
            gain = LOGIT_STD / (EMBEDDING_STD * math.sqrt(hidden))
            return residual.norm(self._text.layers, gain=gain)
        found = _LAYER.fullmatch(name)
        if found is None:
            return self._table(name)
        layer, part = int(found[1]), found[2]
        match part:
            case "input_layernorm.weight":
                return residual.norm(layer)
            case "post_attention_layernorm.weight":
                return residual.norm(layer, second=True)
            case "self_attn.q_proj.weight" | "self_attn.k_proj.weight":
                return Recipe(SHARPNESS / math.sqrt(hidden))
            case "self_attn.q_proj.bias":
                # In the fastest rotary pairs: a preference for some distances.
                return self._bias(name, slice(0, 2), (QUERY_BIAS, QUERY_BIAS))
            case "self_attn.k_proj.bias":
                # In the slowest pairs, where it is nearly the same for all keys, as softmax then ignores it.
                half = self._text.head_dim // 2
                outer = layer in (0, self._text.layers - 1)
                return self._bias(name, slice(half - 4, half), HUGE_KEY_BIAS if outer else KEY_BIAS)
            case "self_attn.v_proj.bias":
                return Recipe(EARLY_VALUE_BIAS if layer == residual.early else VALUE_BIAS)
            case "self_attn.o_proj.weight":
                return residual.attention_output(layer, MIXED, hidden, self._value_bias(layer))
            case "mlp.gate_proj.weight" | "mlp.up_proj.weight":
                return residual.mlp_input(layer, self._text.intermediate_size)
            case "mlp.down_proj.weight":
                return residual.mlp_output(layer, self._text.intermediate_size, SILU_GATED)
        return Recipe(1 / math.sqrt(hidden))

    def _table(self, name: str) -> Recipe:
        sizes = np.exp(ROW_SPREAD * stream_of(self._seed, name, "sizes").standard_normal(self._text.vocab_size))
        sizes /= math.sqrt(float((sizes**2).mean()))
        sizes[self._words :] = UNUSED_ROWS

        def scale(values: np.ndarray, first: int) -> None:
            values *= sizes[first : first + len(values), None].astype(np.float32)
            if name == "model.embed_tokens.weight":
                for token in self._marked:
                    if first <= token < first + len(values):
                        values[token - first, self._residual.marker] = MARK

        return Recipe(EMBEDDING_STD, edit=scale)

    def _bias(self, name: str, pairs: slice, sizes: tuple[float, float]) -> Recipe:
        head_dim, seed = self._text.head_dim, self._seed

        def enlarge(values: np.ndarray, first: int) -> None:
            rng = stream_of(seed, name, "large")
            heads = values.reshape(-1, 2, head_dim // 2)[..., pairs]
            heads[...] = rng.uniform(*sizes, heads.shape) * rng.choice([-1, 1], heads.shape)

        return Recipe(0.3, edit=enlarge)

    def _value_bias(self, layer: int) -> np.ndarray | None:
        """What attention adds to every row whatever it looks at, (hidden,); None where values have no bias."""
        name, text = f"model.layers.{layer}.self_attn.v_proj.bias", self._text
        if not text.qkv_bias:
            return None
        bias = draw(self._seed, name, (text.kv_heads * text.head_dim,), self.recipe(name))
        return bias.reshape(text.kv_heads, -1).repeat(text.heads // text.kv_heads, axis=0).ravel()
