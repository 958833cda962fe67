"""Values that a caller gives, by type and range: one function per kind, numpy's scalars welcome.

Everything is checked before anything is computed, and a wrong value is an ``InputError`` that names the option.
"""

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, SupportsFloat

import numpy as np

from glimpse_runtime.errors import InputError

_SHOWN = 60


def whole(name: str, value: Any, least: int, most: int | None = None, error: type[InputError] = InputError) -> int:
    """Returns a whole number within a range.

    Args:
        name: what the caller calls it.
        value: what was given; a bool is no number.
        least: the smallest that makes sense.
        most: the largest, None for no limit.
        error: what to raise.

    Raises:
        InputError: it is no whole number, or out of range.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise error(f"{name} must be a whole number, found {shown(value)}")
    number = int(value)
    if number < least or (most is not None and number > most):
        wanted = f"be at least {least}" if most is None else f"lie in {least}..{most}"
        raise error(f"{name} must {wanted}, found {shown(value)}")
    return number


def real(
    name: str,
    value: Any,
    least: float,
    most: float = math.inf,
    above: bool = False,
    error: type[InputError] = InputError,
) -> float:
    """Returns a finite number within a range.

    Args:
        name: what the caller calls it.
        value: what was given; a bool is no number.
        least: the smallest that makes sense.
        most: the largest.
        above: whether ``least`` itself is too small.
        error: what to raise.

    Raises:
        InputError: it is no number, not finite, or out of range.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise error(f"{name} must be a number, found {shown(value)}")
    number = as_float(value)
    if not math.isfinite(number) or not least <= number <= most or (above and number == least):
        wanted = f"lie in {least:g}..{most:g}" if math.isfinite(most) else f"be a finite number, at least {least:g}"
        wanted += f", above {least:g}" if above else ""
        raise error(f"{name} must {wanted}, found {shown(value)}")
    return number


def flag(name: str, value: Any, error: type[InputError] = InputError) -> bool:
    """Returns True or False.

    Raises:
        InputError: it is anything else: a word such as "no" would count as true.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise error(f"{name} must be True or False, found {shown(value)}")
    return bool(value)


def text(name: str, value: Any, error: type[InputError] = InputError) -> str:
    """Returns a text.

    Raises:
        InputError: it is no str, or holds half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise error(f"the {name} must be a str, found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise error(f"the {name} is not valid Unicode text: {shown(value)}") from None
    return value


def texts(name: str, value: Any, error: type[InputError] = InputError) -> tuple[str, ...]:
    """Returns texts that are not empty.

    Raises:
        InputError: it is one text instead of several, a mapping, or one of them is empty or no str.
    """
    try:
        found = None if isinstance(value, (str, bytes, Mapping)) else tuple(value)
    except Exception:  # of a class of the caller's; also of an array of no dimension, which calls itself iterable
        found = None
    if found is None or not all(isinstance(item, str) and item for item in found):
        raise error(f"{name} must be a tuple of non-empty texts, found {shown(value)}")
    return found


def choice(name: str, value: Any, known: Iterable[str], error: type[InputError] = InputError) -> str:
    """Returns one of some words.

    Raises:
        InputError: it is none of them.
    """
    words = tuple(known)
    if not isinstance(value, str) or value not in words:
        raise error(f"{name} must be one of {', '.join(words)}, found {shown(value)}")
    return value


def seconds(name: str, value: Any) -> float | None:
    """Returns how long to wait; None, or infinite, is for ever.

    Raises:
        InputError: it is no number, or negative.
    """
    if value is None or (isinstance(value, Real) and value == math.inf):
        return None
    try:
        return real(name, value, 0)
    except InputError:
        raise InputError(f"{name} must be a number of seconds, not negative, found {shown(value)}") from None


def shown(value: Any) -> str:
    """Returns what was given as short text for an error."""
    try:
        found = repr(value)
    except Exception:  # of a class of the caller's
        found = f"a {type(value).__name__}"
    return found if len(found) <= _SHOWN else f"{found[: _SHOWN - 3]}..."


def as_float(value: SupportsFloat) -> float:
    """Returns a number as a float, infinity where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
