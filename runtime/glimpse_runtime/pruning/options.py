"""What a request asks of pruning."""

from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace

import numpy as np

from glimpse_runtime.arrays import BoolArray
from glimpse_runtime.bundle.anchors import ANCHORS, is_anchor
from glimpse_runtime.checked import flag, real, shown, texts, whole
from glimpse_runtime.errors import PruningError
from glimpse_runtime.pruners import BEFORE, Pruner, find

LONGEST_FOLLOW = 64
_ZOOM = ("zoom", "zoom_margin", "zoom_threshold", "zoom_gate", "zoom_most")


@dataclass(frozen=True)
class Pruning:
    """What a request asks of pruning. None means: as the bundle says.

    Ratios and minimum count all visual tokens of the prompt, also after a first stage.

    Attributes:
        enabled: False runs the plain model.
        threshold: keep a token when sigmoid(logit) is greater, 0..1; for adaptive methods.
        max_keep_ratio: at most this share of all visual tokens of the prompt, 0..1; a method that is not adaptive
            keeps exactly ``int(max_keep_ratio * total)``.
        min_keep: at least this many visual tokens.
        anchors: corners of the image to keep always, of ``tl tr bl br``; one image only.
        keep_masks: keep exactly these tokens instead of asking the scorer: per image a bool array
            (rows, columns) of the merged grid. The bundle's cap, minimum and anchors do not apply to it,
            only those given here.
        method: who chooses; ``glimpse_runtime.pruners.names()`` lists them. With ``keep_masks`` there is nothing to
            choose.
        pre: a method that acts before layer 0 as a first stage: what it drops never enters the lower layers, and
            ``method`` chooses at the split among the rest.
        pre_keep: share of all visual tokens that the first stage keeps, above 0 to 1.
        position_debias: divide the trend towards the image's end out of a method's attention (PoRe).
        neighbour_suppression: let a token chosen by attention suppress neighbours that look like it (AdaptPrune).
        seed: of methods that draw.
        zoom: look at a copy of the image with this share of its pixels first, above 0 and below 1, and encode only
            the places that its scores name at full resolution; one image above 256 visual tokens. What is encoded is
            kept whole, whatever the other options say; where the image is encoded whole, they apply, and the report
            says why.
        zoom_margin: visual tokens around those places that are encoded too.
        zoom_threshold: scores of the copy above it name a place, 0..1.
        zoom_gate: the image is encoded whole where the copy's best score is below it, 0..1; 0 never.
        zoom_most: at most this share of the image is encoded, its best places, and the image never whole whatever the
            scores are; above 0 to 1. None leaves that to the gate.
        follow: on the scenes of a stream (``Session.stream``): only what the last answer to the same question kept, so
            many cells around it, and what changed since enter layer 0; all does where there is no such answer since the
            stream's last full pass.
    """

    enabled: bool = True
    threshold: float | None = None
    max_keep_ratio: float | None = None
    min_keep: int | None = None
    anchors: tuple[str, ...] | None = None
    keep_masks: Sequence[BoolArray] | None = None
    method: str = "glimpse"
    pre: str | None = None
    pre_keep: float | None = None
    position_debias: bool = False
    neighbour_suppression: bool = False
    seed: int = 0
    zoom: float | None = None
    zoom_margin: int = 2
    zoom_threshold: float = 0.05
    zoom_gate: float = 0.3
    zoom_most: float | None = None
    follow: int | None = None

    def __post_init__(self) -> None:
        """Refuses values that can never be meant.

        Raises:
            PruningError: a value is out of its range, a method is unknown, or options contradict each other.
        """
        for name in ("enabled", "position_debias", "neighbour_suppression"):
            self._set(name, flag(name, getattr(self, name), PruningError))
        for name in ("threshold", "max_keep_ratio", "pre_keep"):
            if getattr(self, name) is not None:
                self._set(name, real(name, getattr(self, name), 0, 1, error=PruningError))
        if self.min_keep is not None:
            self._set("min_keep", whole("min_keep", self.min_keep, 0, error=PruningError))
        self._set("seed", whole("seed", self.seed, 0, error=PruningError))
        for name in ("method", "pre"):
            if not isinstance(getattr(self, name), str) and (name == "method" or self.pre is not None):
                raise PruningError(f"{name} must be the name of a pruning method, found {shown(getattr(self, name))}")
        if self.anchors is not None:
            self._set("anchors", texts("anchors", self.anchors, PruningError))
        for anchor in self.anchors or ():
            if not is_anchor(anchor):
                raise PruningError(f"unknown anchor {anchor!r}; anchors are {', '.join(ANCHORS)}")
        if not self.enabled and any(_given(self, field) for field in fields(self)[1:]):
            raise PruningError("pruning is switched off (enabled=False), so no other option of it can be given")
        method = find(self.method)
        self._check_zoom()
        if self.follow is not None:
            self._check_follow()
        self._check_masks()
        self._check_first_stage(method)
        if self.threshold is not None and not method.adaptive:
            raise PruningError(
                f"method {self.method!r} keeps a fixed share, max_keep_ratio; a threshold has no meaning with it"
            )
        for option in ("position_debias", "neighbour_suppression"):
            if getattr(self, option) and not method.ranks_attention:
                raise PruningError(f"{option} works on attention, which method {self.method!r} does not choose by")

    @property
    def pruner(self) -> Pruner:
        """Who chooses."""
        return find("oracle" if self.keep_masks is not None else self.method)

    @property
    def first(self) -> Pruner | None:
        """Who chooses what enters layer 0; None where everything does."""
        if not self.enabled:
            return None
        if self.pre is not None:
            return find(self.pre)
        return self.pruner if self.pruner.place == BEFORE else None

    @property
    def enters_by_question(self) -> bool:
        """Whether another question about the same images may have other tokens before layer 0."""
        return self.follow is not None or (self.first is not None and "text" in self.first.needs)

    def without_zoom(self) -> "Pruning":
        """Returns the same options for an image that is encoded whole."""
        return replace(self, **{name: getattr(type(self), name) for name in _ZOOM})

    def _check_zoom(self) -> None:
        self._set("zoom_margin", whole("zoom_margin", self.zoom_margin, 0, error=PruningError))
        for name in ("zoom_threshold", "zoom_gate"):
            self._set(name, real(name, getattr(self, name), 0, 1, error=PruningError))
        if self.zoom is None:
            given = [name for name in _ZOOM if getattr(self, name) != getattr(type(self), name)]
            if given:
                raise PruningError(f"{given[0]} has no meaning without zoom; give zoom=, such as 0.25")
            return
        self._set("zoom", real("zoom", self.zoom, 0, 1, above=True, error=PruningError))
        if self.zoom_most is not None:
            self._set("zoom_most", real("zoom_most", self.zoom_most, 0, 1, above=True, error=PruningError))
        if self.zoom == 1:
            raise PruningError("zoom must be below 1: a copy as large as the image saves nothing; try 0.25")
        if self.keep_masks is not None or self.pre is not None or self.method != "glimpse":
            raise PruningError(
                "zoom lets the glimpse choose what is encoded; leave out method, pre and keep_masks, or zoom"
            )

    def _check_follow(self) -> None:
        self._set("follow", whole("follow", self.follow, 0, LONGEST_FOLLOW, error=PruningError))
        if self.first is not None or self.keep_masks is not None or self.zoom is not None:
            raise PruningError(
                "follow takes what a method at the split kept; leave out pre, zoom, keep_masks and methods that "
                "act before layer 0, or follow"
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_masks(self) -> None:
        if self.keep_masks is None:
            if self.method == "oracle":
                raise PruningError("method 'oracle' keeps what the caller says; give keep_masks")
            return
        several = isinstance(self.keep_masks, np.ndarray) and self.keep_masks.ndim > 0
        several |= isinstance(self.keep_masks, Sequence) and not isinstance(self.keep_masks, (str, bytes))
        if not several:
            raise PruningError(f"keep_masks must be a list with a bool array per image, found {shown(self.keep_masks)}")
        if self.threshold is not None:
            raise PruningError("a threshold has no meaning with keep_masks: no scores are computed")
        if self.method not in ("glimpse", "oracle") or self.pre is not None:
            raise PruningError("keep_masks says what is kept, so no method can choose; leave out method and pre")

    def _check_first_stage(self, method: Pruner) -> None:
        if (self.pre is None) != (self.pre_keep is None):
            raise PruningError(
                "a first stage has a method and a share: give both pre= and pre_keep=, --pre and --pre-keep"
            )
        if self.pre is None:
            return
        if self.pre_keep == 0.0:
            raise PruningError("pre_keep must be above 0: the first stage leaves something to choose from")
        if find(self.pre).place != BEFORE:
            raise PruningError(f"method {self.pre!r} acts at the split, so it cannot be the first stage, pre")
        if method.place == BEFORE:
            raise PruningError(
                f"pre={self.pre!r} and method={self.method!r} both act before layer 0; choose a method at the split, "
                f"or give method={self.pre!r} alone with max_keep_ratio={self.pre_keep}"
            )


def _given(pruning: Pruning, field: Field[object]) -> bool:
    """Whether a request says something else than an option's default."""
    value = getattr(pruning, field.name)
    return value is not None if field.default is None else bool(value != field.default)
