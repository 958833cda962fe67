"""The base model's reference, as the checks see it: the original's own code, weights of one layer at a time.

A family builds the whole model without memory and its own ``forward`` runs it, so masks, rotary tables and the order of
layers are the original's. Only the layers are replaced by stand-ins that hand each layer to a visitor, who brings the
weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from glimpse_runtime.arrays import FloatArray, IntArray

Weights = Mapping[str, torch.Tensor]
Reshape = Callable[[torch.Tensor], torch.Tensor]


def as_it_is(states: torch.Tensor) -> torch.Tensor:
    """Returns what it is given: of a module that takes and gives rows as the visitors do."""
    return states


@dataclass(frozen=True)
class Layer:
    """One module of the model, called the way transformers calls it.

    Attributes:
        names: names of its tensors in the checkpoint.
        enter: turns a visitor's rows into what the module takes.
        leave: turns what the module gives into rows.
    """

    names: tuple[str, ...]
    _prefix: str
    _module: torch.nn.Module
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    enter: Reshape = as_it_is
    leave: Reshape = as_it_is

    def __call__(self, hidden: torch.Tensor, weights: Weights, cache: "Cache | None" = None) -> torch.Tensor:
        """Runs it with some weights by their names in the checkpoint."""
        own = {name[len(self._prefix) :]: weights[name] for name in self.names}
        # The argument has the first name since transformers 5.24.
        extra = {} if cache is None else {"cache" if "cache" in self._kwargs else "past_key_values": cache}
        given = (self.enter(hidden), *self._args)
        out = torch.func.functional_call(self._module, own, given, {**self._kwargs, **extra})
        return self.leave(out[0] if isinstance(out, tuple) else out)


Visit = Callable[[int, Layer, torch.Tensor], torch.Tensor]


@dataclass
class Cache:
    """Keys and values by layer, (1, heads, rows, size): the part of transformers' cache that its attention uses."""

    rows: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends the rows of a step and returns all."""
        if layer_idx in self.rows:
            past_key, past_value = self.rows[layer_idx]
            key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        self.rows[layer_idx] = (key, value)
        return key, value

    def keep(self, layer: int, rows: torch.Tensor) -> None:
        """Drops all other rows of a layer."""
        key, value = self.rows[layer]
        self.rows[layer] = (key[:, :, rows], value[:, :, rows])


class StandIn(torch.nn.Module):
    """Takes a layer's place and gives the call to a visitor."""

    attention_type = "full_attention"

    def __init__(self, call: Callable[..., Any]) -> None:
        """Takes what to call in the layer's place."""
        super().__init__()
        self._call = call

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Hands the call on."""
        return self._call(hidden, args, kwargs)


@dataclass(frozen=True)
class Arrangement:
    """How the rows of the reference's vision states lie in the bundle's, images one behind the other.

    Attributes:
        order: (all rows,) where each row of the reference's states lies in the bundle's.
        token_order: (all visual tokens,) the same for what comes out of the encoder.
        tap: turns the bundle's states behind a block, of one image or several, into what the scorer reads.
    """

    order: torch.Tensor
    token_order: torch.Tensor
    tap: Callable[[FloatArray], FloatArray]


class Reference(Protocol):
    """The original without weights; ``glimpse_export.model.family.Family.reference`` makes one.

    It shares no code with the family's graph author, positions, preprocessing or reading of configurations.

    Attributes:
        names: names of all tensors that answers depend on, without the LM head.
        layers: number of decoder layers.
        taps: the blocks of the vision encoder whose states the scorer reads, in its order; -1 is before the first.
        around_image: ids that the original asks for before and behind an image's in any prompt.
    """

    @property
    def names(self) -> set[str]:
        """Names of all tensors that answers depend on, without the LM head."""
        ...

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        ...

    @property
    def taps(self) -> tuple[int, ...]:
        """The blocks of the vision encoder whose states the scorer reads, in its order; -1 is before the first."""
        ...

    @property
    def around_image(self) -> tuple[list[int], list[int]]:
        """The ids that the original asks for before and behind an image's in any prompt."""
        ...

    def positions(self, ids: IntArray, grids: Sequence[tuple[int, int]]) -> IntArray:
        """Returns the (axes, tokens) rope positions of a prompt; grids are (rows, columns) of patches."""
        ...

    def processed(self, image: Image.Image, rules: Any) -> tuple[FloatArray, tuple[int, int]]:
        """Returns the patches of an image in the bundle's layout, and their (rows, columns).

        Args:
            image: in RGB.
            rules: the family's image rules.
        """
        ...

    def added_words(self, base: Path) -> Mapping[str, int] | None:
        """Returns the words that the original's tokenizer takes whole, with their ids; None where it has no say."""
        ...

    def prompt_ids(self, base: Path, question: str, grids: Sequence[tuple[int, int]], image_token: int) -> list[int]:
        """Returns the ids of a question about some images, by the original's template and tokenizer.

        Args:
            base: the checkpoint's folder.
            question: the user's text.
            grids: (rows, columns) of visual tokens of the images.
            image_token: the id that stands for a visual token.
        """
        ...

    def arrange(self, grids: Sequence[tuple[int, int]]) -> Arrangement:
        """Returns how vision states lie, for (rows, columns) of patches of some images."""
        ...

    def see(
        self, pixels: FloatArray, grids: Sequence[tuple[int, int]], embed: Visit, block: Visit, merge: Visit
    ) -> None:
        """Runs the vision encoder on the patches of some images, each part through its visitor.

        Args:
            pixels: (patches, values) of all images.
            grids: (rows, columns) of patches of each.
            embed: gets what turns patches into states, and (patches, values).
            block: gets every block that counts, and (rows, width) states.
            merge: gets what turns states into visual tokens, and all the (rows, width) states behind a block, as soon
                as this one has run; its number goes with them.
        """
        ...

    def read(
        self, rows: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, layers: range, visit: Visit
    ) -> torch.Tensor:
        """Runs rows through some decoder layers, without the final norm.

        Args:
            rows: (rows, hidden).
            positions: (axes, rows).
            mask: (rows, keys) bool, which keys each row sees.
            layers: which layers.
            visit: gets every layer.

        Returns:
            (rows, hidden) after the last of them.
        """
        ...

    def final_norm(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Returns rows after the decoder's last norm."""
        ...


def stand_in(prefix: str, module: torch.nn.Module, index: int, visit: Visit, wrapped: bool = False) -> StandIn:
    """Returns what takes a layer's place: calls go to a visitor, with the layer and its number.

    Args:
        prefix: of its tensors' names in the checkpoint.
        module: the layer.
        index: its number.
        visit: the visitor.
        wrapped: whether its output is expected in a tuple.
    """
    names = tensor_names(prefix, module)

    def call(hidden: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = visit(index, Layer(names, prefix, module, args, kwargs), hidden)
        return (out,) if wrapped else out

    return StandIn(call)


def tensor_names(prefix: str, module: torch.nn.Module) -> tuple[str, ...]:
    """Returns the names of a module's tensors in the checkpoint."""
    return tuple(prefix + name for name, _ in module.named_parameters())


def layers_are_wrapped() -> bool:
    """Whether this version's layers return tuples, as most did up to transformers 4."""
    import transformers

    return int(transformers.__version__.split(".")[0]) < 5
