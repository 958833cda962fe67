"""The rows of the comparison: every way of answering the questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glimpse_models.pocket.evaluate import least_kept
from glimpse_runtime import Pruning, PruningError
from glimpse_runtime.arrays import BoolArray
from glimpse_runtime.pruners import find, names

ALL, NONE = "all", "none"
REFERENCE, METHOD, TWO_STAGE, BOUND, FLOOR = "reference", "method", "two-stage", "bound", "floor"
NO_CAP = 1.0

Check = Callable[[Pruning], None]


@dataclass(frozen=True)
class Way:
    """One way of answering every question.

    Attributes:
        kind: ``REFERENCE``, ``METHOD``, ``TWO_STAGE``, ``BOUND`` or ``FLOOR``.
        method: who chooses the visual tokens; ``none``, or the name of a floor.
        keep: the cap of an adaptive method, the share that another keeps; None where no number is given.
        pre: method of a first stage before layer 0, if there is one.
        pre_keep: share that it keeps.
    """

    kind: str
    method: str
    keep: float | None = None
    pre: str | None = None
    pre_keep: float | None = None

    @property
    def series(self) -> str:
        """What the ways that differ in ``keep`` alone have in common."""
        return self.method if self.pre is None else f"{self.pre} {self.pre_keep:g} + {self.method}"

    @property
    def name(self) -> str:
        """What tells it from every other."""
        return self.series if self.keep is None else f"{self.series} {self.keep:g}"

    def pruning(self, seed: int = 0, mask: BoolArray | None = None) -> Pruning:
        """Returns the request.

        Args:
            seed: of methods that draw.
            mask: (rows, columns) tokens to keep, of the ways that are a mask.
        """
        if self in (UNPRUNED, BLIND):
            return Pruning(enabled=False)
        if mask is not None:
            return Pruning(keep_masks=[mask])
        cap = NO_CAP if self.keep is None else self.keep
        return Pruning(
            max_keep_ratio=cap,
            min_keep=least_kept(self.method),
            method=self.method,
            pre=self.pre,
            pre_keep=self.pre_keep,
            seed=seed,
        )


UNPRUNED = Way(REFERENCE, NONE)
GLIMPSE = Way(METHOD, "glimpse")
ORACLE = Way(BOUND, "oracle")
BLIND, DROPPED = Way(FLOOR, "blind"), Way(FLOOR, "dropped")
RANDOM_AT_SPLIT = Way(FLOOR, "random-at-split")


def choose(
    pruners: Sequence[str],
    keeps: Sequence[float],
    first_stages: Sequence[tuple[str, float]],
    check: Check,
) -> tuple[list[Way], dict[str, str]]:
    """Returns the ways to compare, and the methods that ``all`` had to skip with the reason.

    The reference comes first and the floors last, whatever is named.

    Args:
        pruners: names of methods, ``all`` or ``none``.
        keeps: caps and shares.
        first_stages: methods before layer 0 with their shares, each put before the glimpse.
        check: raises ``PruningError`` for a request that the bundle cannot answer.

    Raises:
        PruningError: a method that was named cannot be run.
    """
    named = [name for name in pruners if name not in (ALL, NONE)]
    ways, skipped = [UNPRUNED], {}
    for name in dict.fromkeys([*(names() if ALL in pruners else ()), *named]):
        try:
            ways += _of_method(name, keeps, check)
        except PruningError as error:
            if name in named:
                raise
            skipped[name] = str(error)
    for pre, pre_keep in dict.fromkeys(first_stages):
        ways += _behind(pre, pre_keep, keeps, check)
    ways += [BLIND, DROPPED]
    if GLIMPSE in ways:
        ways.append(RANDOM_AT_SPLIT)
    else:
        skipped[RANDOM_AT_SPLIT.name] = "it keeps as many tokens as the glimpse, which is not among the pruners"
    return ways, skipped


def _of_method(name: str, keeps: Sequence[float], check: Check) -> list[Way]:
    if name == ORACLE.method:
        return [ORACLE]
    caps = [None, *keeps] if find(name).adaptive else list(keeps)
    ways = [Way(METHOD, name, keep) for keep in dict.fromkeys(caps)]
    for way in ways:
        check(way.pruning())
    return ways


def _behind(pre: str, pre_keep: float, keeps: Sequence[float], check: Check) -> list[Way]:
    """The glimpse behind a first stage; a cap that the first stage has met already says nothing more."""
    caps = [None, *(keep for keep in dict.fromkeys(keeps) if keep < pre_keep)]
    ways = [Way(TWO_STAGE, GLIMPSE.method, keep, pre, pre_keep) for keep in caps]
    for way in ways:
        check(way.pruning())
    return ways
