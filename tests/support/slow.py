"""Parameters of which ``make test`` tries a few and ``make test-all`` all."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

slow = pytest.mark.slow


def few(values: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """Marks all values as slow but those that are kept, which must be among them."""
    listed = list(values)
    assert all(value in listed for value in kept), f"{kept} are not all among {listed}"
    return [
        value if value in kept else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=slow)
        for value in listed
    ]
