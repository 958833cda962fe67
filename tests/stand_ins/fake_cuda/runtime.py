"""The part of ``cuda.bindings.runtime`` that is used, on a ``Device``: same names, same parameters, same results."""

import enum
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np

from stand_ins.fake_cuda.device import Device, Event, FakeCudaError, Stream, Work, view


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorNotReady = 600
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class cudaDeviceAttr(enum.IntEnum):
    cudaDevAttrMemoryPoolsSupported = 115


class cudaMemAllocationType(enum.IntEnum):
    cudaMemAllocationTypePinned = 1


class cudaMemLocationType(enum.IntEnum):
    cudaMemLocationTypeDevice = 1


class cudaMemPoolAttr(enum.IntEnum):
    cudaMemPoolAttrReleaseThreshold = 4


class cudaMemPoolProps:
    def __init__(self) -> None:
        self.allocType: Any = None
        self.location = SimpleNamespace(type=None, id=None)


class cudaStream_t(int):
    """A handle, as the real one convertible to int."""


OK = cudaError_t.cudaSuccess
_ANY_THREAD = ("cudaSetDevice", "cudaGetErrorString", "cudaGetLastError")
_KINDS = {
    cudaMemcpyKind.cudaMemcpyHostToDevice: ("pinned", "device"),
    cudaMemcpyKind.cudaMemcpyDeviceToHost: ("device", "pinned"),
    cudaMemcpyKind.cudaMemcpyDeviceToDevice: ("device", "device"),
}


class Runtime:
    """Stands for the module; its functions are those of a real one with the names and order of parameters kept."""

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode
    cudaDeviceAttr, cudaMemAllocationType = cudaDeviceAttr, cudaMemAllocationType
    cudaMemLocationType, cudaMemPoolAttr, cudaMemPoolProps = cudaMemLocationType, cudaMemPoolAttr, cudaMemPoolProps
    cudaStreamNonBlocking, cudaEventBlockingSync, cudaEventDisableTiming, cudaHostAllocDefault = 1, 1, 2, 0

    def __init__(self, device: Device, has_pools: bool = True) -> None:
        self.device = device
        self.fails: dict[str, cudaError_t] = {}
        self._has_pools = has_pools

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found
        self.device.calls.append(name)
        if name not in _ANY_THREAD and threading.get_ident() not in self.device.threads:
            raise FakeCudaError(f"{name} was called in a thread that has not chosen the device")
        if name in self.fails:
            return lambda *arguments: self._fail(name, found, arguments)
        return found

    def _fail(self, name, function, arguments):
        if name == "cudaStreamEndCapture":  # it ends the capture whatever comes of it
            del self.device.graphs[function(*arguments)[1]]
        return self.fails[name], None

    def cudaSetDevice(self, device):
        if device:
            return (cudaError_t.cudaErrorInvalidValue,)
        self.device.threads.add(threading.get_ident())
        return (OK,)

    def cudaDeviceGetAttribute(self, attr, device):
        return OK, int(self._has_pools)

    def cudaGetErrorString(self, error):
        return OK, f"text of {error.name}".encode()

    def cudaGetLastError(self):
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags):
        stream = Stream(self.device.handle())
        self.device.streams[stream.handle] = stream
        return OK, cudaStream_t(stream.handle)

    def cudaStreamDestroy(self, stream):
        self.device.drain(self.device.stream(stream))
        del self.device.streams[int(stream)]
        return (OK,)

    def cudaStreamSynchronize(self, stream):
        self.device.drain(self.device.stream(stream))
        return (OK,)

    def cudaMemPoolCreate(self, poolProps):
        pool = self.device.handle()
        self.device.pools.add(pool)
        return OK, pool

    def cudaMemPoolDestroy(self, memPool):
        self.device.pools.remove(memPool)
        return (OK,)

    def cudaMemPoolSetAttribute(self, memPool, attr, value):
        return (OK,)

    def cudaMalloc(self, size):
        return self._allocate("device", size)

    def cudaMallocFromPoolAsync(self, size, memPool, stream):
        if memPool not in self.device.pools:
            raise FakeCudaError("the pool was destroyed")
        return self._allocate("device", size)

    def cudaHostAlloc(self, size, flags):
        return self._allocate("pinned", size)

    def cudaFree(self, devPtr):
        for stream in self.device.streams.values():
            self.device.drain(stream)
        self.device.retire(self.device.free("device", devPtr))
        return (OK,)

    def cudaFreeAsync(self, devPtr, hStream):
        block = self.device.free("device", devPtr)
        self.device.enqueue(hStream, Work("cudaFreeAsync", [], lambda: self.device.retire(block)))
        return (OK,)

    def cudaFreeHost(self, ptr):
        block = self.device.free("pinned", ptr)
        for stream in self.device.streams.values():
            for work in stream.queue:
                if block in work.blocks:
                    raise FakeCudaError(f"pinned memory was freed before {work.name} was done with it")
        self.device.retire(block)
        return (OK,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        self._copy(dst, count, src, count, count, 1, kind, stream)
        return (OK,)

    def cudaMemcpy2DAsync(self, dst, dpitch, src, spitch, width, height, kind, stream):
        if dpitch < width or spitch < width:
            return (cudaError_t.cudaErrorInvalidValue,)
        self._copy(dst, dpitch, src, spitch, width, height, kind, stream)
        return (OK,)

    def cudaMemsetAsync(self, devPtr, value, count, stream):
        block = self.device.find(devPtr, count, "cudaMemsetAsync", "device")
        self.device.enqueue(stream, Work("cudaMemsetAsync", [block], lambda: view(devPtr, count).fill(value)))
        return (OK,)

    def cudaEventCreateWithFlags(self, flags):
        event = Event(self.device.handle())
        self.device.events[event.handle] = event
        return OK, event.handle

    def cudaEventDestroy(self, event):
        del self.device.events[event]
        return (OK,)

    def cudaEventRecord(self, event, stream):
        found = self.device.events[event]
        found.stream, found.mark = self.device.stream(stream), Work("cudaEventRecord", [], found.reach)
        self.device.enqueue(stream, found.mark)
        return (OK,)

    def cudaEventSynchronize(self, event):
        found = self.device.events[event]
        if found.stream is not None and any(work is found.mark for work in found.stream.queue):
            self.device.drain(found.stream, found.mark)
        return (OK,)

    def cudaEventElapsedTime(self, start, end):
        times = [self.device.events[event].reached_ms for event in (start, end)]
        if None in times:
            return cudaError_t.cudaErrorNotReady, None
        return OK, times[1] - times[0]

    def cudaStreamBeginCapture(self, stream, mode):
        self.device.stream(stream).recording = []
        return (OK,)

    def cudaStreamEndCapture(self, stream):
        found = self.device.stream(stream)
        work, found.recording = found.recording, None
        if work is None:
            return cudaError_t.cudaErrorInvalidValue, None
        return OK, self._graph(work)

    def cudaGraphInstantiate(self, graph, flags):
        return OK, self._graph(self.device.graphs[graph])

    def cudaGraphLaunch(self, graphExec, stream):
        self.device.launch(graphExec, stream)
        return (OK,)

    def cudaGraphDestroy(self, graph):
        del self.device.graphs[graph]
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec):
        del self.device.graphs[graphExec]
        return (OK,)

    def _allocate(self, kind, size):
        address = self.device.allocate(kind, size)
        return (OK, address) if address else (cudaError_t.cudaErrorMemoryAllocation, None)

    def _graph(self, work):
        handle = self.device.handle()
        self.device.graphs[handle] = work
        return handle

    def _copy(self, dst, dpitch, src, spitch, width, height, kind, stream):
        from_kind, to_kind = _KINDS[kind]
        source = self.device.find(src, spitch * (height - 1) + width, f"source of {kind.name}", from_kind)
        target = self.device.find(dst, dpitch * (height - 1) + width, f"target of {kind.name}", to_kind)
        if source is target and src < dst + dpitch * (height - 1) + width and dst < src + spitch * (height - 1) + width:
            raise FakeCudaError(f"source and target of {kind.name} overlap")

        def run():
            for row in range(height):
                view(dst + row * dpitch, width)[:] = view(src + row * spitch, width)

        def hide():
            # What the host reads before it waited is not what was copied.
            if kind == cudaMemcpyKind.cudaMemcpyDeviceToHost:
                view(dst, width).fill(0xFF)

        self.device.enqueue(stream, Work(kind.name, [source, target], run, hide))


def cuuint64_t(value: int) -> np.uint64:
    """``cuda.bindings.driver.cuuint64_t``."""
    return np.uint64(value)
