"""Enumerations and small interfaces, with TensorRT's names."""

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9


class LayerType(IntEnum):
    CONVOLUTION = 0
    CAST = 1
    ACTIVATION = 2
    ELEMENTWISE = 10
    MATRIX_MULTIPLY = 16
    CONSTANT = 18
    SHUFFLE = 14
    SHAPE = 24
    QUANTIZE = 35
    DEQUANTIZE = 36
    PLUGIN_V3 = 46
    ATTENTION_OUTPUT = 52
    ROTARY_EMBEDDING = 53
    KV_CACHE_UPDATE = 54
    NORMALIZATION = 43
    OTHER = 99


class NetworkDefinitionCreationFlag(IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class BuilderFlag(IntEnum):
    TF32 = 7


class ComputeCapability(IntEnum):
    NONE = 0
    CURRENT = 1
    SM75 = 75
    SM80 = 80
    SM86 = 86
    SM89 = 89
    SM120 = 120
    SM121 = 121


class ErrorCode(IntEnum):
    MODEL_DESERIALIZE_FAILED = 3
    UNSUPPORTED_NODE = 8


class ILogger:
    """Base of a user's logger."""

    Severity = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    def log(self, severity: Severity, message: str) -> None:
        print(f"[TRT] [{severity.name}] {message}")


class IStreamWriter:
    def write(self, data: bytes) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class Settings:
    """Which TensorRT to be."""

    name: str
    version: str

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))

    @property
    def is_rtx(self) -> bool:
        return self.name == "tensorrt_rtx"

    def at_least(self, *numbers: int) -> bool:
        """Whether an ability of full TensorRT since that version is there; TensorRT-RTX 1.7 has those of 10.15."""
        return self.is_rtx or self.numbers >= numbers
