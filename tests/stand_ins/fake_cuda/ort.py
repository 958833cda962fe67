"""onnxruntime with a CUDA provider that is not there: sessions of the CPU on memory of the fake device.

As the real one does, it copies an input of the host when it is bound, and runs on the stream it was given.
"""

import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime

from stand_ins.fake_cuda.device import Device, FakeCudaError, view

PROVIDER = "CUDAExecutionProvider"
ALL_ON_GPU = "session.disable_cpu_ep_fallback"


class FakeOnnxRuntime:
    """Stands for the module.

    Attributes:
        is_usable: whether the provider finds its libraries; if not, sessions silently run on the CPU.
    """

    def __init__(self, device: Device) -> None:
        self.is_usable = True
        # What is cached for a module lives as long as the process; a device and its memory must not.
        self._device = weakref.ref(device)

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [PROVIDER, "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        print("libraries were looked for")

    def InferenceSession(self, path: str, options: Any, providers: Sequence[Any]) -> Any:  # noqa: N802
        if not isinstance(providers[0], tuple) or not self.is_usable:
            return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        options.add_session_config_entry(ALL_ON_GPU, "0")
        real = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        options.add_session_config_entry(ALL_ON_GPU, "1")
        name, settings = providers[0]
        assert name == PROVIDER
        device = self._device()
        assert device is not None, "the test that the device was for has ended"
        return FakeSession(device, real, int(settings["user_compute_stream"]))


class FakeSession:
    def __init__(self, device: Device, real: Any, stream: int) -> None:
        self._device, self._real, self._stream = device, real, device.stream(stream)

    def get_providers(self) -> list[str]:
        return [PROVIDER, "CPUExecutionProvider"]

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def io_binding(self) -> "FakeBinding":
        return FakeBinding(self._device, self._real.io_binding())

    def run_with_iobinding(self, binding: "FakeBinding", options: Any) -> None:
        self._device.drain(self._stream)
        binding.check()
        self._real.run_with_iobinding(binding.real, options)


class FakeBinding:
    """A binding of device addresses; outputs without an address get memory of the device."""

    def __init__(self, device: Device, real: Any) -> None:
        self.real = real
        self._device = device
        self._places: dict[tuple[str, str], tuple[int, int]] = {}
        self._copies: dict[str, np.ndarray] = {}
        self._outputs: list[tuple[str, bool]] = []

    def check(self) -> None:
        for (_, name), (address, size) in self._places.items():
            self._device.find(address, size, f"tensor {name}", "device")

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(element_type).itemsize
        if device_type == "cpu":
            self._copies[name] = view(buffer_ptr, size).copy()
            buffer_ptr = self._copies[name].ctypes.data
        else:
            self._place("input", name, buffer_ptr, size)
        self.real.bind_input(name, "cpu", 0, element_type, shape, buffer_ptr)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        self._outputs.append((name, device_type == "cuda"))
        if buffer_ptr is None or shape is None:
            self.real.bind_output(name, "cpu")
            return
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(element_type).itemsize
        if device_type == "cuda":
            self._place("output", name, buffer_ptr, size)
        self.real.bind_output(name, "cpu", 0, element_type, shape, buffer_ptr)

    def get_outputs(self) -> list[Any]:
        values = zip(self._outputs, self.real.get_outputs(), strict=True)
        return [FakeValue(self._device, value.numpy()) if on_device else value for (_, on_device), value in values]

    def _place(self, way: str, name: str, address: int, size: int) -> None:
        self._device.find(address, size, f"{way} {name}", "device")
        self._places[way, name] = address, size


class FakeValue:
    """An output on the device, given back with its last user."""

    def __init__(self, device: Device, array: np.ndarray) -> None:
        self._shape = list(array.shape)
        self._address = device.allocate("device", max(array.nbytes, 1))
        if not self._address:
            raise FakeCudaError("out of memory")
        view(self._address, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        weakref.finalize(self, _give_back, device, self._address).atexit = False

    def data_ptr(self) -> int:
        return self._address

    def shape(self) -> list[int]:
        return self._shape


def _give_back(device: Device, address: int) -> None:
    device.retire(device.free("device", address))
