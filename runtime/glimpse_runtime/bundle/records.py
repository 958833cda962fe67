"""A bundle's JSON files as frozen dataclasses: strict reading, and writing.

A missing key, an unknown key or a value of another type is a ``BundleFormatError`` that names the key. A field with a
default may be missing, and is not written where it has it: so a form can grow, and a bundle without what is new can
still be read by versions that do not know it.
"""

import dataclasses
import functools
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from glimpse_runtime.errors import BundleFormatError

Record = TypeVar("Record")


def to_json(record: Any) -> str:
    """Returns a dataclass as readable JSON with a final newline."""
    return json.dumps(plain(record), indent=2, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """Returns a dataclass as what JSON consists of, without fields that have their default."""
    if dataclasses.is_dataclass(value):
        kept = [field for field in dataclasses.fields(value) if getattr(value, field.name) != field.default]
        return {field.name: plain(getattr(value, field.name)) for field in kept}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_versioned(
    cls: type[Record],
    text: str,
    where: str,
    key: str,
    version: int,
    upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] | None = None,
) -> Record:
    """Makes a dataclass of JSON text that says in which version of its form it was written.

    Args:
        cls: the dataclass; see ``read_record``.
        text: the JSON text.
        where: what to call the file in an error message.
        key: the field that holds the version.
        version: the one that is read.
        upgrades: for each older version that is read too, what arranges its fields as this one has them.

    Raises:
        BundleFormatError: not JSON, another version, or keys and values that do not fit.
    """
    data = read_object(text, where)
    found = data.get(key)
    if type(found) is int and found in (upgrades or {}):
        return read_record(cls, (upgrades or {})[found](data), where)
    if found != version:
        raise BundleFormatError(
            f"{where} has {key.replace('_', ' ')} {found!r}, this runtime reads version {version}; "
            "export the model again with this version of glimpse-edge, or install the version that wrote it"
        )
    return read_record(cls, data, where)


def read_record(cls: type[Record], data: Any, where: str, path: str = "") -> Record:
    """Makes a dataclass of JSON data: every key of it without a default, no other, every value of its type.

    Args:
        cls: a dataclass of numbers, strings, tuples, mappings and other such dataclasses.
        data: what ``json.loads`` made.
        where: what to call the file in an error message.
        path: the key that holds ``data``, for the same.

    Raises:
        BundleFormatError: naming the key that does not fit.
    """
    if not isinstance(data, dict):
        raise BundleFormatError(f"{where}: {path or 'top level'} must be an object, found {_kind(data)}")
    hints, defaults = _fields(cls)  # type: ignore[arg-type]  # a class is hashable
    for key in sorted(set(data) - set(defaults)):
        raise BundleFormatError(f"{where}: unknown key {_join(path, key)}; it was written by another version")
    for key in sorted(key for key, default in defaults.items() if default is dataclasses.MISSING and key not in data):
        raise BundleFormatError(f"{where}: key {_join(path, key)} is missing; export the model again")
    return cls(**{key: _value(hints[key], data[key], where, _join(path, key)) for key in data})


def read_object(text: str, where: str) -> dict[str, Any]:
    """Returns the JSON object that a text is.

    Raises:
        BundleFormatError: it is not one.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleFormatError(f"{where} is not valid JSON ({error}); export the model again") from None
    if not isinstance(data, dict):
        raise BundleFormatError(f"{where} is not a JSON object; export the model again")
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BundleFormatError(f"{where} holds text that is not valid Unicode; export the model again") from None
    return data


@functools.cache
def _fields(cls: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns types and defaults of a dataclass by the names of its fields."""
    return typing.get_type_hints(cls), {field.name: field.default for field in dataclasses.fields(cls)}


def _value(hint: Any, data: Any, where: str, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return read_record(typing.cast(type, hint), data, where, path)
    if origin in (types.UnionType, typing.Union):
        if data is None and type(None) in arguments:
            return None
        choices = [choice for choice in arguments if choice is not type(None)]
        if len(choices) > 1:
            choices = [choice for choice in choices if type(data) is choice] or choices[:1]
        return _value(choices[0], data, where, path)
    if origin is tuple and isinstance(data, list):
        return tuple(_value(arguments[0], item, where, f"{path}[{i}]") for i, item in enumerate(data))
    if origin is not None and issubclass(origin, Mapping) and isinstance(data, dict):
        return {key: _value(arguments[1], item, where, _join(path, key)) for key, item in data.items()}
    if hint is float and type(data) in (int, float) and abs(data) < sys.float_info.max:
        return float(data)
    if hint is Any or (hint in (int, str, bool) and type(data) is hint):
        return data
    expected = getattr(hint, "__name__", str(hint))
    raise BundleFormatError(f"{where}: {path} must be of type {expected}, found {_kind(data)}")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _kind(data: Any) -> str:
    return "null" if data is None else f"{type(data).__name__} {str(data)[:40]!r}"
