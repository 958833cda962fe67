"""How a model's building blocks are spelled in ONNX: one file per family of inference engines."""

from collections.abc import Callable, Sequence

from glimpse_export.errors import UnsupportedError
from glimpse_export.graphs.dialects.base import Attention, DecoderStep, Dialect, Heads, WindowKeys
from glimpse_export.graphs.dialects.opset24 import Opset24Dialect
from glimpse_export.graphs.dialects.ort import OrtDialect
from glimpse_export.graphs.dialects.plain import PlainDialect

_DIALECTS: dict[str, Callable[[], Dialect]] = {"ort": OrtDialect, "opset24": Opset24Dialect, "plain": PlainDialect}
DIALECTS: Sequence[str] = tuple(_DIALECTS)


def dialect(name: str) -> Dialect:
    """Returns a dialect by name.

    Raises:
        UnsupportedError: there is no such dialect.
    """
    if name not in _DIALECTS:
        raise UnsupportedError(f"unknown dialect {name!r}; this version writes: {', '.join(DIALECTS)}")
    return _DIALECTS[name]()


__all__ = ["DIALECTS", "Attention", "DecoderStep", "Dialect", "Heads", "WindowKeys", "dialect"]
