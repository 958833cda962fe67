"""Builder, configuration and profiles: a build fails where the original's would."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from fake_trt import faults
from fake_trt.network import INetworkDefinition
from fake_trt.types import BuilderFlag, ComputeCapability, ILogger, IStreamWriter, Settings, Severity

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
_PIECE_BYTES = 64


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Shapes] = {}
        self.extra_memory_target = 1.0

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        if not len(min) == len(opt) == len(max):
            raise ValueError("different ranks")
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))

    def get_shape(self, input: str) -> Shapes:
        return self.shapes[input]

    def __bool__(self) -> bool:
        return all(
            a <= b <= c for low, usual, high in self.shapes.values() for a, b, c in zip(low, usual, high, strict=True)
        )


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data or b"measured"


class IBuilderConfig:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.flags = 1 << BuilderFlag.TF32
        self.profiles: list[IOptimizationProfile] = []
        self.num_compute_capabilities = 0
        self.capabilities: dict[int, ComputeCapability] = {}
        self._timing: ITimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags &= ~(1 << flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return bool(self.flags & 1 << flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        if not profile:
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_compute_capability(self, capability: ComputeCapability, index: int) -> bool:
        if not 0 <= index < self.num_compute_capabilities:
            return False
        self.capabilities[index] = capability
        return True

    def create_timing_cache(self, serialized: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._timing = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing


class Builder:
    settings: ClassVar[Settings]

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        faults.at_start(self.settings.name)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(self.settings, flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self.settings)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        fault = self._fault(network, config) or faults.at_build()
        if fault is not None:
            self._logger.log(Severity.ERROR, fault)
            return None
        return json.dumps(_engine(self.settings, network, config)).encode()

    def build_serialized_network_to_stream(
        self, network: INetworkDefinition, config: IBuilderConfig, writer: IStreamWriter
    ) -> bool:
        if not self.settings.at_least(10, 13):
            raise AttributeError("'Builder' object has no attribute 'build_serialized_network_to_stream'")
        plan = self.build_serialized_network(network, config) or b""
        pieces = [plan[start : start + _PIECE_BYTES] for start in range(0, len(plan), _PIECE_BYTES)]
        return bool(pieces) and all(writer.write(piece) == len(piece) for piece in pieces)

    def _fault(self, network: INetworkDefinition, config: IBuilderConfig) -> str | None:
        for tensor in network.inputs:
            for index, profile in enumerate(config.profiles or [IOptimizationProfile()]):
                if -1 in tensor.shape and tensor.name not in profile.shapes:
                    return f"Network has dynamic input {tensor.name} but profile {index} has no range for it"
                for shape in profile.shapes.get(tensor.name, ()):
                    if len(shape) != len(tensor.shape):
                        return f"profile {index}: rank of {tensor.name} differs"
                    if any(dim not in (-1, length) for dim, length in zip(tensor.shape, shape, strict=True)):
                        return f"profile {index}: static dimension of {tensor.name} differs"
        if self.settings.is_rtx and ComputeCapability.CURRENT in config.capabilities.values():
            return "CURRENT needs a GPU"
        return None


def _engine(settings: Settings, network: INetworkDefinition, config: IBuilderConfig) -> dict[str, Any]:
    def tensors(these: Any) -> list[dict[str, Any]]:
        return [{"name": t.name, "dtype": t.dtype.name, "shape": list(t.shape)} for t in these]

    return {
        "module": settings.name,
        "version": settings.version,
        "graph": network.graph,
        "inputs": tensors(network.inputs),
        "outputs": tensors(network.outputs),
        "aliases": network.aliases(),
        "plugins": [layer.name for layer in network.layers if layer.type.name == "PLUGIN_V3"],
        "profiles": [{"shapes": p.shapes, "extra_memory_target": p.extra_memory_target} for p in config.profiles],
        "tf32": config.get_flag(BuilderFlag.TF32),
        "capabilities": [capability.name for capability in config.capabilities.values()],
    }
