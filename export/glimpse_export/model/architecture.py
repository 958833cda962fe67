"""The one description of a model with GlimpsePrune that all graphs and the manifest follow.

A family reads it from a model's files; nothing here depends on one model.
"""

from dataclasses import dataclass
from typing import Protocol

SCORER_ROPE_THETA = 10000.0
SCORER_NORM_EPS = 1e-6
LAYER_NORM_EPS = 1e-5
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "quick_gelu", "relu")


@dataclass(frozen=True)
class Text:
    """The decoder.

    Attributes:
        rope_sections: how many rotary frequencies follow each axis of a position; one section is a rope on one axis.
        qkv_bias: whether queries, keys and values have biases.
        tied: whether the LM head is the embedding table.
    """

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float
    activation: str
    rope_theta: float
    rope_sections: tuple[int, ...]
    max_positions: int
    qkv_bias: bool
    tied: bool

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.heads


class Vision(Protocol):
    """What the description of every vision encoder says; a family's own says more."""

    @property
    def depth(self) -> int:
        """Blocks."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of its states."""
        ...

    @property
    def heads(self) -> int:
        """Attention heads."""
        ...

    @property
    def out_size(self) -> int:
        """Width of a visual token."""
        ...

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        ...

    @property
    def merge_size(self) -> int:
        """Rows and columns of patches that become one visual token."""
        ...

    @property
    def patch_values(self) -> int:
        """Numbers in one patch."""
        ...


@dataclass(frozen=True)
class Glimpse:
    """The glimpse token and where its attention is read."""

    length: int
    layers: tuple[int, ...]
    norm: str
    norm_eps: float
    selected_layers: tuple[int, ...]
    reduce_layer: int
    log_softmax: bool


@dataclass(frozen=True)
class Scorer:
    """The scorer (VIP): a few attention blocks over the visual tokens of one image.

    Attributes:
        window: side of the windows that its attention stays within, in visual tokens; None for none.
    """

    size: int
    condition_size: int
    heads: int
    taps: tuple[int, ...]
    conditioned: bool
    window: int | None
    activation: str
    attention_row: bool

    @property
    def qk_size(self) -> int:
        """Width of queries and keys."""
        return self.size + (self.condition_size if self.conditioned else 0)

    @property
    def head_dim(self) -> int:
        """Size of one query or key head; the rotary embedding covers all of it."""
        return self.qk_size // self.heads


@dataclass(frozen=True)
class PruningConfig:
    """The adapter's selection rule."""

    threshold: float
    max_keep_ratio: float | None
    min_keep: int | None
    anchors: tuple[str, ...]


@dataclass(frozen=True)
class Tokens:
    """Special token ids."""

    image: int
    video: int | None
    eos: tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A whole model; ``family`` is the name that its bundle's manifest states."""

    family: str
    text: Text
    vision: Vision
    glimpse: Glimpse
    scorer: Scorer
    pruning: PruningConfig
    tokens: Tokens
    repetition_penalty: float

    @property
    def merge_unit(self) -> int:
        """Patches that become one visual token."""
        return self.vision.merge_size**2

    @property
    def lower_layers(self) -> int:
        """Decoder layers that run on all tokens: 0..K, or all when K is the last layer or beyond."""
        return min(self.glimpse.reduce_layer + 1, self.text.layers)
