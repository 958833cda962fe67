"""The CUDA driver's functions that are used, on a ``Device``: same names, same parameters, same results."""

import enum
import threading
from typing import Any

from glimpse_runtime.backends.cuda.driver import FUNCTIONS, Copy2d
from stand_ins.fake_cuda.device import Device, Event, FakeCudaError, Stream, Work, view


class CudaError(enum.IntEnum):
    """``CUresult``."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


OK = CudaError.CUDA_SUCCESS
_CONTEXT = 0xC0DE
# What may be called before a thread has chosen the device, or is about no device.
_ANY_THREAD = (
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDevicePrimaryCtxRetain",
    "cuCtxSetCurrent",
    "cuGetErrorName",
    "cuGetErrorString",
)


class FakeDriver:
    """Stands for ``LibraryDriver``; its methods have the names and parameters of ``cuda.h``, results last.

    Attributes:
        device: where its work is done.
        fails: functions that fail, with the error.
        version: of CUDA, as ``cuDriverGetVersion`` says it.
    """

    def __init__(self, device: Device, has_pools: bool = True) -> None:
        self.device = device
        self.fails: dict[str, CudaError] = {}
        self.version = 13000
        self._has_pools = has_pools

    def __call__(self, function: str, *arguments: Any) -> tuple[int, Any]:
        if function not in FUNCTIONS:
            raise FakeCudaError(f"{function} is not in the table of functions")
        self.device.calls.append(function)
        if function not in _ANY_THREAD and threading.get_ident() not in self.device.threads:
            raise FakeCudaError(f"{function} was called in a thread that has not chosen the device")
        if function in self.fails:
            if function == "cuStreamEndCapture":  # it ends the capture whatever comes of it
                del self.device.graphs[self.cuStreamEndCapture(*arguments)[1]]
            return self.fails[function], None
        found = getattr(self, function)(*arguments)
        return (OK, None) if found is None else found

    def cuInit(self, flags):
        pass

    def cuDriverGetVersion(self):
        return OK, self.version

    def cuDeviceGet(self, ordinal):
        return (CudaError.CUDA_ERROR_NO_DEVICE, None) if ordinal else (OK, 0)

    def cuDeviceGetAttribute(self, attrib, dev):
        return OK, {97: 99 << 10, 115: int(self._has_pools)}[attrib]

    def cuDevicePrimaryCtxRetain(self, dev):
        self.device.contexts += 1
        return OK, _CONTEXT

    def cuDevicePrimaryCtxRelease_v2(self, dev):
        self.device.contexts -= 1

    def cuCtxSetCurrent(self, ctx):
        if ctx != _CONTEXT:
            raise FakeCudaError(f"{ctx} is no context")
        self.device.threads.add(threading.get_ident())

    def cuGetErrorName(self, error):
        return OK, CudaError(error).name.encode()

    def cuGetErrorString(self, error):
        return OK, f"text of {CudaError(error).name}".encode()

    def cuStreamCreate(self, Flags):
        stream = Stream(self.device.handle())
        self.device.streams[stream.handle] = stream
        return OK, stream.handle

    def cuStreamDestroy_v2(self, hStream):
        self.device.drain(self.device.stream(hStream))
        del self.device.streams[hStream]

    def cuStreamSynchronize(self, hStream):
        self.device.drain(self.device.stream(hStream))

    def cuMemPoolCreate(self, poolProps):
        pool = self.device.handle()
        self.device.pools.add(pool)
        return OK, pool

    def cuMemPoolDestroy(self, pool):
        self.device.pools.remove(pool)

    def cuMemPoolSetAttribute(self, pool, attr, value):
        if pool not in self.device.pools:
            raise FakeCudaError("the pool was destroyed")

    def cuMemAlloc_v2(self, bytesize):
        return self._allocate("device", bytesize)

    def cuMemAllocFromPoolAsync(self, bytesize, pool, hStream):
        if pool not in self.device.pools:
            raise FakeCudaError("the pool was destroyed")
        return self._allocate("device", bytesize)

    def cuMemHostAlloc(self, bytesize, Flags):
        return self._allocate("pinned", bytesize)

    def cuMemFree_v2(self, dptr):
        for stream in self.device.streams.values():
            self.device.drain(stream)
        self.device.retire(self.device.free("device", dptr))

    def cuMemFreeAsync(self, dptr, hStream):
        block = self.device.free("device", dptr)
        self.device.enqueue(hStream, Work("cuMemFreeAsync", [], lambda: self.device.retire(block)))

    def cuMemFreeHost(self, p):
        block = self.device.free("pinned", p)
        for stream in self.device.streams.values():
            for work in stream.queue:
                if block in work.blocks:
                    raise FakeCudaError(f"pinned memory was freed before {work.name} was done with it")
        self.device.retire(block)

    def cuMemcpyHtoDAsync_v2(self, dstDevice, srcHost, ByteCount, hStream):
        self._copy("HtoD", ("pinned", "device"), dstDevice, ByteCount, srcHost, ByteCount, ByteCount, 1, hStream)

    def cuMemcpyDtoHAsync_v2(self, dstHost, srcDevice, ByteCount, hStream):
        self._copy("DtoH", ("device", "pinned"), dstHost, ByteCount, srcDevice, ByteCount, ByteCount, 1, hStream)

    def cuMemcpyDtoDAsync_v2(self, dstDevice, srcDevice, ByteCount, hStream):
        self._copy("DtoD", ("device", "device"), dstDevice, ByteCount, srcDevice, ByteCount, ByteCount, 1, hStream)

    def cuMemcpy2DAsync_v2(self, pCopy: Copy2d, hStream):
        if pCopy.target_pitch < pCopy.width or pCopy.source_pitch < pCopy.width:
            return CudaError.CUDA_ERROR_INVALID_VALUE, None
        if (pCopy.source_type, pCopy.target_type) != (2, 2):
            raise FakeCudaError("the copy is not one on the device")
        to, start = (pCopy.target, pCopy.target_pitch), (pCopy.source, pCopy.source_pitch)
        self._copy("2D", ("device", "device"), *to, *start, pCopy.width, pCopy.count, hStream)
        return None

    def cuMemsetD8Async(self, dstDevice, uc, N, hStream):
        block = self.device.find(dstDevice, N, "cuMemsetD8Async", "device")
        self.device.enqueue(hStream, Work("cuMemsetD8Async", [block], lambda: view(dstDevice, N).fill(uc)))

    def cuEventCreate(self, Flags):
        event = Event(self.device.handle())
        self.device.events[event.handle] = event
        return OK, event.handle

    def cuEventDestroy_v2(self, hEvent):
        del self.device.events[hEvent]

    def cuEventRecord(self, hEvent, hStream):
        found = self.device.events[hEvent]
        found.stream, found.mark = self.device.stream(hStream), Work("cuEventRecord", [], found.reach)
        self.device.enqueue(hStream, found.mark)

    def cuEventSynchronize(self, hEvent):
        found = self.device.events[hEvent]
        if found.stream is not None and any(work is found.mark for work in found.stream.queue):
            self.device.drain(found.stream, found.mark)

    def cuEventElapsedTime(self, hStart, hEnd):
        times = [self.device.events[event].reached_ms for event in (hStart, hEnd)]
        if None in times:
            return CudaError.CUDA_ERROR_NOT_READY, None
        return OK, times[1] - times[0]

    def cuStreamBeginCapture_v2(self, hStream, mode):
        self.device.stream(hStream).recording = []

    def cuStreamEndCapture(self, hStream):
        found = self.device.stream(hStream)
        work, found.recording = found.recording, None
        if work is None:
            return CudaError.CUDA_ERROR_INVALID_VALUE, None
        return OK, self._graph(work)

    def cuGraphInstantiateWithFlags(self, hGraph, flags):
        return OK, self._graph(self.device.graphs[hGraph])

    def cuGraphLaunch(self, hGraphExec, hStream):
        self.device.launch(hGraphExec, hStream)

    def cuGraphDestroy(self, hGraph):
        del self.device.graphs[hGraph]

    def cuGraphExecDestroy(self, hGraphExec):
        del self.device.graphs[hGraphExec]

    def cuModuleLoadData(self, image):
        return CudaError.CUDA_ERROR_INVALID_IMAGE, None  # the stand-in has no kernels; tests/stand_ins/libcuda.cpp has

    def _allocate(self, kind, size):
        address = self.device.allocate(kind, size)
        return (OK, address) if address else (CudaError.CUDA_ERROR_OUT_OF_MEMORY, None)

    def _graph(self, work):
        handle = self.device.handle()
        self.device.graphs[handle] = work
        return handle

    def _copy(self, name, kinds, dst, dpitch, src, spitch, width, height, stream):
        source = self.device.find(src, spitch * (height - 1) + width, f"source of {name}", kinds[0])
        target = self.device.find(dst, dpitch * (height - 1) + width, f"target of {name}", kinds[1])
        if source is target and src < dst + dpitch * (height - 1) + width and dst < src + spitch * (height - 1) + width:
            raise FakeCudaError(f"source and target of {name} overlap")

        def run():
            for row in range(height):
                view(dst + row * dpitch, width)[:] = view(src + row * spitch, width)

        def hide():
            # What the host reads before it waited is not what was copied.
            if kinds[1] == "pinned":
                view(dst, width).fill(0xFF)

        self.device.enqueue(stream, Work(name, [source, target], run, hide))
