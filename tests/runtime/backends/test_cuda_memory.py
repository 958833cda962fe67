"""Memory, transfers and graphs of the GPU backends, on a fake device that forbids what CUDA leaves undefined."""

import gc
import inspect
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from stand_ins import fake_cuda
from stand_ins.fake_cuda import CudaError, FakeCudaError, FakeDriver
from stand_ins.fake_cuda.kernels import StreamedLibrary

from glimpse_runtime.backends.compact import compact_rows
from glimpse_runtime.backends.cuda.compaction import Compaction, HostCompaction, KernelCompaction
from glimpse_runtime.backends.cuda.device import Cuda
from glimpse_runtime.backends.cuda.driver import FUNCTIONS
from glimpse_runtime.backends.cuda.memory import DeviceMemory, DeviceTensor
from glimpse_runtime.backends.cuda.transfer import Transfer
from glimpse_runtime.errors import BackendError


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return fake_cuda.install(monkeypatch)


@pytest.fixture
def memory(runtime: FakeDriver) -> Iterator[DeviceMemory]:
    found = DeviceMemory(Cuda())
    yield found
    found.close()
    assert runtime.device.leaks() == []


def numbers(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).integers(-99, 99, shape).astype(dtype)


def place(memory: DeviceMemory, array: np.ndarray) -> DeviceTensor:
    tensor = memory.empty(array.shape, str(array.dtype))
    memory.copy(array, tensor)
    return tensor


def test_new_memory_is_zero(memory: DeviceMemory) -> None:
    assert memory.download(memory.allocate((3, 5), "float16")).tolist() == np.zeros((3, 5)).tolist()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int64", "bool", "uint8"])
def test_arrays_come_back_as_they_went(memory: DeviceMemory, dtype: str) -> None:
    array = numbers(7, 11, dtype=dtype)
    found = memory.download(place(memory, array))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_bfloat16_comes_back_as_float32(memory: DeviceMemory) -> None:
    tensor = memory.empty((2,), "bfloat16")
    memory._cuda.zero(tensor.address, 4)
    raw = DeviceTensor(tensor.address, (4,), "uint8", tensor.owner)
    memory.copy(np.array([1.5, -2.0], np.float32).view(np.uint16)[1::2].copy().view(np.uint8), raw)
    assert memory.download(tensor).tolist() == [1.5, -2.0]


def test_the_caller_may_change_an_array_as_soon_as_it_was_given(memory: DeviceMemory) -> None:
    array = numbers(50)
    tensor = memory.empty((50,), "float32")
    memory.copy(array, tensor)
    expected = array.copy()
    array[:] = -1
    np.testing.assert_array_equal(memory.download(tensor), expected)


def test_views_of_rows_share_memory(memory: DeviceMemory) -> None:
    array = numbers(1, 9, 4)
    tensor = place(memory, array)
    middle = memory.rows(tensor, 2, 5)
    np.testing.assert_array_equal(memory.download(middle), array[:, 2:5])
    memory.copy(np.zeros((3, 4), np.float32), middle)
    array[:, 2:5] = 0
    np.testing.assert_array_equal(memory.download(tensor), array)


def test_copies_on_the_device_change_the_shape_but_not_the_size_or_type(memory: DeviceMemory) -> None:
    array = numbers(6, 4)
    source, target = place(memory, array), memory.empty((1, 6, 4), "float32")
    memory.copy(source, target)
    np.testing.assert_array_equal(memory.download(target)[0], array)
    with pytest.raises(BackendError, match="96 bytes cannot be copied to a tensor of shape \\(5, 4\\), 80 bytes"):
        memory.copy(source, memory.empty((5, 4), "float32"))
    with pytest.raises(TypeError, match="expected a tensor of float16, found float32"):
        memory.copy(source, memory.empty((6, 8), "float16"))
    with pytest.raises(TypeError, match="expected a tensor on the device, found ndarray"):
        memory.download(array)


def test_a_large_array_goes_in_parts_while_its_way_is_still_full(runtime: FakeDriver) -> None:
    cuda = Cuda()
    memory, transfer = DeviceMemory(cuda), Transfer(cuda, part_bytes=1024)
    arrays = [numbers(size, dtype="uint8") for size in (10_000, 1, 300, 1024, 0, 5000)]
    tensors = [memory.empty(array.shape, "uint8") for array in arrays]
    for array, tensor in zip(arrays, tensors, strict=True):
        transfer.upload(array, tensor.address)
    for array, tensor in zip(arrays, tensors, strict=True):
        np.testing.assert_array_equal(transfer.download(tensor.address, tensor.nbytes), array)
    memory.close()
    assert runtime.device.leaks() == []


def test_a_part_that_is_filled_again_too_early_is_found_out(
    runtime: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above fails when nobody waits before a part is written to again."""
    cuda = Cuda()
    transfer, tensor = Transfer(cuda, part_bytes=1024), DeviceMemory(cuda).empty((4096,), "uint8")
    monkeypatch.setattr(FakeDriver, "cuEventSynchronize", lambda *_: None)
    array = numbers(4096, dtype="uint8")
    transfer.upload(array, tensor.address)
    assert not np.array_equal(transfer.download(tensor.address, 4096), array)


def test_the_cache_is_saved_and_restored_by_rows(memory: DeviceMemory) -> None:
    arrays = [numbers(1, 2, 8, 3) + layer for layer in range(4)]
    buffers = [place(memory, array) for array in arrays]
    saved = memory.save(buffers, 5)
    for rows, array in zip(saved, arrays, strict=True):
        np.testing.assert_array_equal(memory.download(rows), array[:, :, :5])
    for buffer in buffers:
        memory.copy(np.zeros((1, 2, 8, 3), np.float32), buffer)
    memory.restore(buffers, saved)
    for buffer, array in zip(buffers, arrays, strict=True):
        array[:, :, 5:] = 0
        np.testing.assert_array_equal(memory.download(buffer), array)


def by_host(memory: DeviceMemory, runtime: FakeDriver) -> Compaction:
    return HostCompaction(memory)


def by_kernel(memory: DeviceMemory, runtime: FakeDriver) -> Compaction:
    build = pytest.importorskip("glimpse_plugins.build")
    library = pytest.importorskip("glimpse_plugins.library")
    try:
        built = build.build_host()
    except BackendError as error:
        pytest.skip(f"no C++ compiler: {error}")
    return KernelCompaction(memory, StreamedLibrary(runtime.device, library.CompactLibrary(built.library)))


@pytest.mark.parametrize("make", [by_host, by_kernel])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_compaction_is_that_of_numpy(
    memory: DeviceMemory, runtime: FakeDriver, make: Callable[[DeviceMemory, FakeDriver], Compaction], dtype: str
) -> None:
    memory.compaction = make(memory, runtime)
    rng = np.random.default_rng(1)
    for case in range(40):
        rows = int(rng.integers(1, 40))
        capacity = rows + int(rng.integers(0, 9))
        keep = np.flatnonzero(rng.random(rows) < [0.0, 0.2, 0.7, 1.0][case % 4])
        arrays = [rng.standard_normal((1, 2, capacity, 5)).astype(dtype) for _ in range(3)]
        hidden = rng.standard_normal((1, rows, 7)).astype(np.float32)
        buffers, states = [place(memory, array) for array in arrays], place(memory, hidden)
        memory.compact(buffers, states, keep)
        for buffer, array in zip(buffers, arrays, strict=True):
            compact_rows(array, keep)
            np.testing.assert_array_equal(memory.download(buffer)[:, :, : len(keep)], array[:, :, : len(keep)])
        compact_rows(hidden, keep, axis=1)
        np.testing.assert_array_equal(memory.download(states)[:, : len(keep)], hidden[:, : len(keep)])


def test_memory_is_given_back_with_its_last_view(memory: DeviceMemory, runtime: FakeDriver) -> None:
    before = memory.allocated_bytes
    tensor = memory.empty((1, 100, 4), "float32")
    part = memory.rows(tensor, 1, 3)
    assert memory.allocated_bytes == before + 1600
    del tensor
    assert memory.allocated_bytes == before + 1600
    del part
    gc.collect()
    assert memory.allocated_bytes == before


def test_closing_frees_what_is_still_held_and_may_be_repeated(runtime: FakeDriver) -> None:
    memory = DeviceMemory(Cuda())
    tensor = memory.allocate((10,), "float32")
    memory.close()
    memory.close()
    assert runtime.device.leaks() == []
    with pytest.raises(FakeCudaError):
        runtime.device.find(tensor.address, 1, "reading")
    del tensor


def test_a_device_without_memory_pools_serves_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = fake_cuda.install(monkeypatch, has_pools=False)
    memory = DeviceMemory(Cuda())
    array = numbers(5)
    np.testing.assert_array_equal(memory.download(place(memory, array)), array)
    memory.close()
    assert "cuMemAlloc_v2" in runtime.device.calls
    assert runtime.device.leaks() == []


def test_no_driver_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glimpse_runtime.backends.cuda.driver.DRIVER", "libno-such-cuda.so.1")
    with pytest.raises(BackendError, match=r"there is no NVIDIA driver here .*use the device cpu"):
        Cuda()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("CUDA_ERROR_NO_DEVICE", "nvidia-smi"),
        ("CUDA_ERROR_INVALID_VALUE", "text of CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_an_error_names_itself_and_says_what_to_do(runtime: FakeDriver, error: str, advice: str) -> None:
    runtime.fails["cuDevicePrimaryCtxRetain"] = CudaError[error]
    with pytest.raises(BackendError) as caught:
        Cuda()
    assert error in str(caught.value)
    assert advice in str(caught.value)


def test_too_little_memory_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.install(monkeypatch, memory_bytes=1000)
    memory = DeviceMemory(Cuda())
    with pytest.raises(BackendError, match=r"CUDA_ERROR_OUT_OF_MEMORY.*--max-context"):
        memory.empty((300,), "float32")
    memory.close()


def test_an_error_while_closing_hides_nothing(runtime: FakeDriver) -> None:
    memory = DeviceMemory(Cuda())
    memory.allocate((4,), "float32")
    runtime.fails["cuStreamSynchronize"] = CudaError.CUDA_ERROR_INVALID_VALUE
    memory.close()
    assert runtime.device.leaks() == []


def test_a_graph_does_its_work_every_time_it_is_launched_and_not_before(memory: DeviceMemory) -> None:
    cuda = memory.cuda
    pinned, tensor = cuda.pinned(8), memory.allocate((2,), "float32")
    graph = cuda.capture(lambda: cuda.upload(pinned.address, tensor.address, 8))
    assert memory.download(tensor).tolist() == [0, 0]
    for values in ([1, 2], [3, 4]):
        pinned.array.view(np.float32)[:] = values
        graph.launch()
        assert memory.download(tensor).tolist() == values


def test_memory_given_back_while_work_is_captured_is_no_part_of_the_graph(
    memory: DeviceMemory, runtime: FakeDriver
) -> None:
    tensor, other = memory.allocate((2,), "float32"), [memory.allocate((2,), "float32") for _ in range(2)]

    def enqueue() -> None:
        memory.cuda.zero(tensor.address, tensor.nbytes)
        other.pop()
        thread = threading.Thread(target=other.pop)
        thread.start()
        thread.join()

    held = runtime.device.held_bytes()
    graph = memory.cuda.capture(enqueue)
    assert runtime.device.held_bytes() == held - 16
    for _ in range(2):
        graph.launch()
        memory.cuda.synchronize()


def test_a_session_that_is_forgotten_gives_its_tensors_back(runtime: FakeDriver) -> None:
    memory = DeviceMemory(Cuda())
    memory.keeps = memory.allocate((1000,), "float32")  # type: ignore[attr-defined]
    del memory
    gc.collect()
    assert runtime.device.held_bytes() == 0


def test_a_capture_that_fails_leaves_nothing_behind(memory: DeviceMemory) -> None:
    def enqueue() -> None:
        raise BackendError("cannot be captured")

    with pytest.raises(BackendError, match="cannot be captured"):
        memory.cuda.capture(enqueue)
    memory.cuda.synchronize()


class TestFake:
    """The fake device notices what it is there to notice."""

    def test_memory_used_after_it_was_freed(self, memory: DeviceMemory) -> None:
        tensor = memory.empty((4,), "float32")
        stale = DeviceTensor(tensor.address, tensor.shape, tensor.dtype, None)
        del tensor
        with pytest.raises(FakeCudaError, match="was freed"):
            memory.download(stale)

    def test_memory_freed_twice(self, runtime: FakeDriver) -> None:
        cuda = Cuda()
        address = cuda.allocate(4)
        cuda.free(address)
        with pytest.raises(FakeCudaError, match="freed twice"):
            cuda.free(address)

    def test_memory_never_freed(self, runtime: FakeDriver) -> None:
        cuda = Cuda()
        cuda.allocate(4)
        cuda.close()
        assert runtime.device.leaks() == ["device memory of 4 bytes"]

    def test_an_address_too_small(self, memory: DeviceMemory) -> None:
        tensor = memory.empty((4,), "float32")
        with pytest.raises(FakeCudaError, match=r"17 bytes .* reach beyond the 16"):
            memory.cuda.zero(tensor.address, 17)

    def test_pageable_memory(self, memory: DeviceMemory) -> None:
        array, tensor = numbers(4), memory.empty((4,), "float32")
        with pytest.raises(FakeCudaError, match="no memory of CUDA"):
            memory.cuda.upload(array.ctypes.data, tensor.address, 16)

    def test_copies_over_themselves(self, memory: DeviceMemory) -> None:
        tensor = memory.empty((4,), "float32")
        with pytest.raises(FakeCudaError, match="overlap"):
            memory.cuda.copy(tensor.address, tensor.address + 4, 8)

    def test_memory_of_the_host_read_before_anybody_waited(self, memory: DeviceMemory) -> None:
        tensor, pinned = memory.allocate((4,), "float32"), memory.cuda.pinned(16)
        memory.cuda.download(tensor.address, pinned.address, 16)
        assert np.isnan(pinned.array.view(np.float32)).all()
        memory.cuda.synchronize()
        assert pinned.array.view(np.float32).tolist() == [0, 0, 0, 0]

    def test_a_graph_whose_memory_moved(self, memory: DeviceMemory) -> None:
        cuda, tensor = memory.cuda, memory.empty((4,), "float32")
        pinned = cuda.pinned(16)
        graph = cuda.capture(lambda: cuda.upload(pinned.address, tensor.address, 16))
        tensor = memory.empty((4,), "float32")
        with pytest.raises(FakeCudaError, match=r"launched in a graph with memory at .* that was freed"):
            graph.launch()

    def test_waiting_within_a_capture(self, memory: DeviceMemory, runtime: FakeDriver) -> None:
        cuda = memory.cuda
        with pytest.raises(FakeCudaError, match="while it is captured"):
            cuda.capture(cuda.synchronize)


def test_the_fake_has_the_functions_of_the_table_with_as_many_parameters() -> None:
    for name, function in FUNCTIONS.items():
        if name.startswith(("cuModule", "cuFunc", "cuLaunch")):
            continue  # the stand-in has no kernels; test_cuda_driver.py does
        assert len(inspect.signature(getattr(FakeDriver, name)).parameters) == len(function.takes) + 1, name
