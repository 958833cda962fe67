"""The one description of a Qwen2.5-VL model with GlimpsePrune that all graphs and the manifest follow.

``configuration`` reads it from a model's files; nothing here depends on one model.
"""

from dataclasses import dataclass

VISION_ROPE_THETA = 10000.0
VISION_NORM_EPS = 1e-6
SCORER_NORM_EPS = 1e-6
LAYER_NORM_EPS = 1e-5
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True)
class Text:
    """The decoder."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float
    activation: str
    rope_theta: float
    mrope_section: tuple[int, ...]
    max_positions: int
    tied: bool

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.heads


@dataclass(frozen=True)
class Vision:
    """The vision encoder."""

    depth: int
    hidden_size: int
    heads: int
    intermediate_size: int
    out_size: int
    channels: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    full_attention: tuple[int, ...]
    activation: str

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.heads

    @property
    def merge_unit(self) -> int:
        """Patches that become one visual token."""
        return self.merge_size**2

    @property
    def patch_values(self) -> int:
        """Numbers in one patch."""
        return self.channels * self.temporal_patch_size * self.patch_size**2

    @property
    def window_tokens(self) -> int:
        """Visual tokens in one attention window."""
        return (self.window_size // self.merge_size // self.patch_size) ** 2

    @property
    def has_windows(self) -> bool:
        """Whether any block attends within windows."""
        return len(set(self.full_attention)) < self.depth


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
    """The scorer (VIP): a few attention blocks over the visual tokens of one image."""

    size: int
    condition_size: int
    heads: int
    taps: tuple[int, ...]
    conditioned: bool
    windowed: bool
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
    """A whole model."""

    text: Text
    vision: Vision
    glimpse: Glimpse
    scorer: Scorer
    pruning: PruningConfig
    tokens: Tokens
    repetition_penalty: float

    @property
    def lower_layers(self) -> int:
        """Decoder layers that run on all tokens: 0..K, or all when K is the last layer or beyond."""
        return min(self.glimpse.reduce_layer + 1, self.text.layers)
