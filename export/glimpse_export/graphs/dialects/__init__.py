"""How a model's building blocks are spelled in ONNX: one file per family of inference engines."""

from collections.abc import Callable

from glimpse_export.errors import UnsupportedError
from glimpse_export.graphs.dialects.base import Attention, DecoderStep, Dialect, Heads, UpdatingAttention, WindowKeys
from glimpse_export.graphs.dialects.opset24 import Opset24Dialect
from glimpse_export.graphs.dialects.ort import OrtDialect
from glimpse_export.graphs.dialects.plain import PlainDialect
from glimpse_runtime.bundle.dialects import DIALECTS, OPSET24, ORT, PLAIN

_SPELLINGS: dict[str, Callable[[], Dialect]] = {OPSET24: Opset24Dialect, PLAIN: PlainDialect}


def dialect(name: str, gpu: bool = False) -> Dialect:
    """Returns a dialect by name.

    Args:
        name: of the dialect.
        gpu: onnxruntime runs the graphs on a GPU; the other dialects are for GPUs alone.

    Raises:
        UnsupportedError: there is no such dialect.
    """
    if name == ORT:
        return OrtDialect(gpu)
    if name not in _SPELLINGS:
        raise UnsupportedError(f"unknown dialect {name!r}; this version writes: {', '.join(DIALECTS)}")
    return _SPELLINGS[name]()


__all__ = ["DIALECTS", "Attention", "DecoderStep", "Dialect", "Heads", "UpdatingAttention", "WindowKeys", "dialect"]
