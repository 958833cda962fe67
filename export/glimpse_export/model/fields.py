"""Typed reading of configuration files: every mistake is one error that names the file and the field."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_runtime.checked import as_float
from glimpse_runtime.files.reading import read_small_text

Config = Mapping[str, Any]
MOST_BYTES = 128 << 20
"""What one may have: an index of shards names every tensor, a tokenizer every word."""


class Fields:
    """Reads typed fields of one configuration file and names it in errors."""

    def __init__(self, config: Config, where: str) -> None:
        """Takes a configuration.

        Args:
            config: the fields.
            where: what to call the file in errors.
        """
        self._config = config
        self.where = where

    def get(self, key: str, kind: type, default: Any = ...) -> Any:
        """Returns a field of the given type; without a default it must be there, and null stands for a default None.

        Raises:
            CheckpointError: it is missing, of another type, or not finite.
        """
        value: Any = self._config.get(key, default)
        if value is ...:
            raise CheckpointError(f"{self.where} has no {key!r}; the checkpoint is incomplete or of another model")
        if value is None and default is None:
            return None
        if kind is float and type(value) is int:
            value = as_float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(key, f"of type {kind.__name__}")
        if kind is float and not _is_number(value):
            raise self.wrong(key, "a finite number")
        return value

    def at_least(self, key: str, least: int, default: Any = ...) -> Any:
        """Returns an integer that is not below ``least``; None where that is the default."""
        value: int | None = self.get(key, int, default)
        if value is not None and value < least:
            raise self.wrong(key, f"at least {least}")
        return value

    def positive(self, key: str, default: Any = ...) -> int:
        """Returns an integer of 1 or more."""
        value: int = self.at_least(key, 1, default)
        return value

    def positive_float(self, key: str, default: Any = ...) -> float:
        """Returns a number above 0."""
        value: float = self.get(key, float, default)
        if value <= 0:
            raise self.wrong(key, "above 0")
        return value

    def integers(self, key: str, default: Any = ...) -> tuple[int, ...]:
        """Returns a list of integers."""
        values = self.get(key, list, default)
        if not all(type(value) is int for value in values):
            raise self.wrong(key, "a list of integers")
        return tuple(values)

    def numbers(self, key: str, count: int, default: tuple[float, ...]) -> tuple[float, ...]:
        """Returns a list of ``count`` finite numbers; null is the default."""
        values = self.get(key, list, None)
        if values is None:
            return default
        if len(values) != count or not all(_is_number(value) for value in values):
            raise self.wrong(key, f"a list of {count} numbers")
        return tuple(float(value) for value in values)

    def nested(self, key: str) -> Config:
        """Returns an object, an empty one for null or where there is none."""
        value: Config | None = self.get(key, dict, None)
        return {} if value is None else value

    def token(self, key: str, vocab_size: int, default: Any = ...) -> Any:
        """Returns a token id of the vocabulary; None where that is the default."""
        value: int | None = self.get(key, int, default)
        if value is not None and not 0 <= value < vocab_size:
            raise self.wrong(key, f"an id of the vocabulary, 0..{vocab_size - 1}")
        return value

    def refuse(self, condition: bool, what: str) -> None:
        """Refuses what this version cannot do.

        Raises:
            UnsupportedError: the condition holds.
        """
        if condition:
            raise UnsupportedError(f"{self.where}: {what} is not supported")

    def wrong(self, key: str, expected: str) -> CheckpointError:
        """Returns the error for a field that is not as expected."""
        found = repr(self._config.get(key))
        found = found if len(found) <= 60 else f"{found[:57]}..."
        return CheckpointError(f"{self.where}: {key!r} must be {expected}, found {found}")


def read_json(path: Path, missing_ok: bool = False) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: the file is missing or is not a JSON object.
    """
    try:
        data = json.loads(read_small_text(path, MOST_BYTES))
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read ({reason}); download the checkpoint again") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object; download the checkpoint again")
    return data


def given(config: Config) -> Config:
    """Returns the fields that are not null; newer writers spell out what is not set."""
    return {key: value for key, value in config.items() if value is not None}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(as_float(value))
