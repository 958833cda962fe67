"""What a pruning method is, and what it sees of an image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from glimpse_runtime.arrays import Array, BoolArray, FloatArray, IntArray
from glimpse_runtime.errors import PruningError

BEFORE, SPLIT = "before layer 0", "at the split"
PLACES = (BEFORE, SPLIT)

ATTENTION_NEEDS = ("attention", "glimpse_attention")
"""Attention to the visual tokens, which ``position_debias`` and ``neighbour_suppression`` can work on."""
GLIMPSE_NEEDS = ("glimpse_attention", "glimpse_logits")
"""What takes the glimpse rows: without such a need they are not run."""
SPLIT_NEEDS = (*ATTENTION_NEEDS, "glimpse_logits", "hidden")
"""What is known only behind the lower layers."""
NEEDS = ("embeds", "text", "features", "vision_attention", "weights", "keep_mask", *SPLIT_NEEDS)


@dataclass(frozen=True)
class PrunerInput:
    """What a method sees of one image.

    The arrays it asked for in ``Pruner.needs`` are properties; the others were not computed, and reading one is an
    error.

    Attributes:
        image: number of the image in the prompt, from 0.
        rows: rows of the image's merged grid.
        columns: its columns.
        cells: (tokens,) int64 place of each visual token that takes part: row * columns + column, ascending. All of
            the grid, or at the split those that entered layer 0.
        positions: (axes, tokens) int64 rope positions of those tokens: time, height and width where there are three.
        keep: how many of them a mask should keep; 0 for an adaptive method.
        seed: of the request, for methods that draw.
        arrays: the arrays by the name of the need.
    """

    image: int
    rows: int
    columns: int
    cells: IntArray
    positions: IntArray
    keep: int
    seed: int
    arrays: Mapping[str, Array]

    @property
    def embeds(self) -> FloatArray:
        """(tokens, hidden) float32: the visual tokens as they enter layer 0."""
        return self._array("embeds")

    @property
    def text(self) -> FloatArray:
        """(text tokens, hidden) float32: embeddings of the prompt behind its last visual token, the question."""
        return self._array("text")

    @property
    def features(self) -> FloatArray:
        """(taps, tokens, vision hidden) float32: outputs of vision blocks, what the glimpse's scorer reads."""
        return self._array("features")

    @property
    def vision_attention(self) -> FloatArray:
        """(tokens,) float32: share of the vision encoder's last full attention that each token receives."""
        return self._array("vision_attention")

    @property
    def attention(self) -> FloatArray:
        """(maps, tokens) float32: share of the last prompt token's attention, by layer and head; at the split."""
        return self._array("attention")

    @property
    def glimpse_attention(self) -> FloatArray:
        """(maps, tokens) float32: the same of the last glimpse row."""
        return self._array("glimpse_attention")

    @property
    def glimpse_logits(self) -> FloatArray:
        """(tokens,) float32: the glimpse scorer's logits; at the split."""
        return self._array("glimpse_logits")

    @property
    def hidden(self) -> FloatArray:
        """(tokens, hidden) float32: states behind the lower layers; at the split."""
        return self._array("hidden")

    @property
    def keep_mask(self) -> BoolArray:
        """(tokens,) bool: the caller's keep mask."""
        mask: BoolArray = self._array("keep_mask")
        return mask

    def weights(self, name: str) -> FloatArray:
        """Returns one array of the method's weights, of the file ``weights_file(method)`` in the bundle.

        Raises:
            PruningError: the file does not have it.
        """
        return self._array(f"weights.{name}")

    def _array(self, name: str) -> Array:
        if name not in self.arrays:
            raise PruningError(f"a pruning method reads {name!r} without having it: list it in Pruner.needs")
        return self.arrays[name]


@dataclass(frozen=True)
class Pruner:
    """A method of choosing visual tokens.

    Attributes:
        name: what a request calls it.
        place: ``BEFORE``: its rows never enter the lower layers; ``SPLIT``: they leave behind layer K.
        needs: names of ``PrunerInput``'s arrays that it reads, of ``NEEDS``.
        source: paper, arXiv id and reference code.
        choose: is called once per image. It returns (tokens,) scores, higher is kept and all images of the prompt
            are ranked together, or a (tokens,) bool keep mask, which is taken as it is; before layer 0 it may keep no
            more than ``PrunerInput.keep``.
        adaptive: its scores are logits to which the threshold, the cap and the minimum apply; only at the split.
            Others keep exactly the share that the request gives.
        weights: of a method that needs ``weights``, the shape of each array by name, so that a file is checked when
            it is exported and when it is read. A dimension is a name, or a sum such as ``hidden+size``; ``hidden`` is
            the model's, the others are what the file makes of them. Left out, any arrays of finite numbers do.
    """

    name: str
    place: str
    needs: tuple[str, ...]
    source: str
    choose: Callable[[PrunerInput], Array]
    adaptive: bool = False
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuses a description that cannot be run.

        Raises:
            PruningError: place or needs are not known.
        """
        if self.place not in PLACES:
            raise PruningError(f"pruning method {self.name!r}: place must be one of {PLACES}, found {self.place!r}")
        possible = NEEDS if self.place == SPLIT else tuple(need for need in NEEDS if need not in SPLIT_NEEDS)
        if self.adaptive and self.place != SPLIT:
            raise PruningError(f"pruning method {self.name!r} acts before layer 0, where none can be adaptive")
        unknown = [need for need in self.needs if need not in possible]
        if unknown:
            raise PruningError(
                f"pruning method {self.name!r} needs {', '.join(unknown)}; {self.place} there is {', '.join(possible)}"
            )

    @property
    def ranks_attention(self) -> bool:
        """Whether attention is what its scores rank."""
        return not self.adaptive and any(need in ATTENTION_NEEDS for need in self.needs)

    @property
    def takes_glimpse(self) -> bool:
        """Whether the glimpse rows must be run for it."""
        return any(need in GLIMPSE_NEEDS for need in self.needs)


_WEIGHTS_FILE = ("pruner.", ".npz")


def weights_file(method: str) -> str:
    """Returns the name of the file in a bundle that holds a method's trained weights."""
    return method.join(_WEIGHTS_FILE)


def method_of(file: str) -> str | None:
    """Returns the name of the method whose trained weights a file holds by its name; None for other files."""
    first, last = _WEIGHTS_FILE
    return file[len(first) : -len(last)] or None if file.startswith(first) and file.endswith(last) else None
