"""Packages that look installed."""

from collections.abc import Callable

Install = Callable[..., None]
