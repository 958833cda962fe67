"""Refuses what would not fit into the memory it may have at run time, and says what would."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from typing import Any

from glimpse_export.errors import BudgetError, UnsupportedError
from glimpse_export.forecast.estimate import loaded_weights, run_memory
from glimpse_export.forecast.text import POSTS, gibibytes
from glimpse_export.planning.boards import Budget
from glimpse_export.planning.options import ExportOptions
from glimpse_export.planning.plan import Plan
from glimpse_export.weights.precision import PRECISIONS, Precision

_SMALLEST = "int4"
_HALF = "fp16"
_CONTEXTS = (16384, 8192, 4096, 2048, 1024)
_VISUAL_TOKENS = (4096, 2048, 1024, 512, 256)
_SHOWN = 4


@dataclass(frozen=True)
class Alternative:
    """Other options with which the model fits.

    Attributes:
        words: what to add to the command.
        options: the same as options.
        total: bytes at run time.
    """

    words: str
    options: ExportOptions
    total: int


# Words for the command, and what they do to the options.
Change = tuple[str, Callable[[ExportOptions], ExportOptions]]


def require_fit(plan: Plan, budget: Budget) -> None:
    """Raises a BudgetError with advice when a bundle would need more than a budget at run time."""
    needed = run_memory(plan, loaded_weights(plan))
    if needed.total <= budget.available_bytes:
        return
    kept = f" ({gibibytes(budget.nbytes)} less {gibibytes(budget.reserve_bytes)} for the system)"
    largest = sorted(needed.posts.items(), key=lambda post: -post[1])
    lines = [
        f"the bundle would need about {gibibytes(needed.total)} at run time, --budget {budget.name} allows "
        f"{gibibytes(budget.available_bytes)}{kept if budget.reserve_bytes else ''}; "
        f"most of it: {', '.join(f'{POSTS[post]} {gibibytes(size)}' for post, size in largest[:3])}"
    ]
    found = alternatives(plan, budget)
    if found:
        lines.append("What would fit; add to the command:")
        width = max(len(choice.words) for choice in found)
        lines += [f"  {choice.words:<{width}}  about {gibibytes(choice.total)}" for choice in found]
    else:
        lines.append("No precision and no limit makes it fit; choose a smaller model or a larger budget.")
    raise BudgetError("\n".join(lines))


def alternatives(plan: Plan, budget: Budget) -> list[Alternative]:
    """Returns other options with which a model fits, those with the fewest changes first."""
    found: list[tuple[set[int], Alternative]] = []
    total = _totals(plan)
    kinds = _changes(plan)
    for count in range(1, len(kinds) + 1):
        for chosen in combinations(range(len(kinds)), count):
            if any(fewer <= set(chosen) for fewer, _ in found):
                continue
            for changes in product(*(kinds[kind] for kind in chosen)):
                words, options = _apply(changes, plan.options)
                needed = total(options)
                if needed is not None and needed <= budget.available_bytes:
                    found.append((set(chosen), Alternative(words, options, needed)))
                    break
    return [choice for _, choice in found[:_SHOWN]]


def _changes(plan: Plan) -> list[list[Change]]:
    """Returns for each kind of change the choices there are, the gentlest first."""
    options, profiles = plan.options, plan.profiles
    precision = options.precision
    smallest = Precision.choose(_SMALLEST, kv_cache=precision.kv_cache)
    kinds: list[list[Change]] = []
    if precision != smallest:
        kinds.append([(_precision_words(precision, smallest), lambda o: replace(o, precision=smallest))])
    if precision.kv_cache != _HALF:
        kinds.append([(f"--kv-cache-precision {_HALF}", _with_half_cache)])
    for name, profile, choices in (
        ("max_visual_tokens", "visual_tokens", _VISUAL_TOKENS),
        ("max_context", "context", _CONTEXTS),
    ):
        smaller = [count for count in choices if count < profiles[profile].max]
        kinds.append([(f"--{name.replace('_', '-')} {count}", _setter(name, count)) for count in smaller])
    return [kind for kind in kinds if kind]


def _precision_words(current: Precision, wanted: Precision) -> str:
    """Parts are named where the command may have named them; the cache, which stays, where int4 implies another."""
    named = replace(current, kv_cache=wanted.kv_cache) not in [
        Precision.choose(name, kv_cache=wanted.kv_cache) for name in PRECISIONS
    ]
    parts = [part for part in Precision.parts() if named and part != "kv_cache"]
    if wanted.kv_cache != Precision.choose(_SMALLEST).kv_cache:
        parts.append("kv_cache")
    words = [f"--{part.replace('_', '-')}-precision {getattr(wanted, part)}" for part in parts]
    return " ".join([f"--precision {_SMALLEST}", *words])


def _with_half_cache(options: ExportOptions) -> ExportOptions:
    return replace(options, precision=replace(options.precision, kv_cache=_HALF))


def _setter(name: str, value: int) -> Callable[[ExportOptions], ExportOptions]:
    changes: dict[str, Any] = {name: value}
    return lambda options: replace(options, **changes)


def _apply(changes: Iterable[Change], options: ExportOptions) -> tuple[str, ExportOptions]:
    words = []
    for word, change in changes:
        words.append(word)
        options = change(options)
    return " ".join(words), options


def _totals(plan: Plan) -> Callable[[ExportOptions], int | None]:
    """Returns a function that tells the bytes at run time with other options, None where the model cannot have them."""
    weights = cache(lambda precision: loaded_weights(plan.with_options(replace(plan.options, precision=precision))))

    def total(options: ExportOptions) -> int | None:
        try:
            changed = plan.with_options(options)
        except UnsupportedError:
            return None
        return run_memory(changed, weights(options.precision)).total

    return total
