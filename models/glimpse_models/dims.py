"""The sizes of a model with a GlimpsePrune adapter, as far as they differ between models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Dims(ABC):
    """Sizes of the decoder and of the vision encoder, and where the glimpse looks; a family's own says more.

    Attributes:
        hidden_size: width of the decoder.
        layers: decoder layers.
        heads: query heads.
        kv_heads: key and value heads.
        intermediate_size: width of the decoder's MLP.
        vocab_size: rows of the embedding table, which may be more than the tokenizer has entries.
        tied: whether the LM head is the embedding table.
        reduce_layer: the layer K whose attention is read and after which tokens are dropped.
        taps: vision blocks that the scorer sees, in its order.
        vision_hidden_size: width of the vision encoder.
        vision_depth: its blocks.
        vision_heads: its heads.
        vision_intermediate_size: width of its MLP.
    """

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    tied: bool
    reduce_layer: int
    taps: tuple[int, ...]
    vision_hidden_size: int
    vision_depth: int
    vision_heads: int
    vision_intermediate_size: int

    @property
    def parameters(self) -> int:
        """Weights of the base model, a tied LM head counted once."""
        hidden, kv = self.hidden_size, self.hidden_size // self.heads * self.kv_heads
        attention = 2 * hidden * (hidden + kv) + (hidden + 2 * kv if self.qkv_bias else 0)
        layer = attention + 3 * hidden * self.intermediate_size + 2 * hidden
        tables = self.vocab_size * hidden * (1 if self.tied else 2)
        return tables + self.layers * layer + hidden + self.vision_parameters

    @property
    @abstractmethod
    def qkv_bias(self) -> bool:
        """Whether the decoder's queries, keys and values have biases."""

    @property
    @abstractmethod
    def vision_parameters(self) -> int:
        """Weights of the vision encoder, with what makes visual tokens of its states."""
