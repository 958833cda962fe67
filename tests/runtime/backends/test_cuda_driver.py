"""The driver's calls by ctypes, against a library of C functions; the kernel compiled, cached and launched."""

import ctypes
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.places import ROOT

from glimpse_plugins.build import SOURCES
from glimpse_plugins.errors import PluginError
from glimpse_plugins.nvrtc import find_nvrtc
from glimpse_plugins.toolchain import find_host_compiler, find_nvcc, nvcc_architectures
from glimpse_runtime.backends.compact import compact_rows
from glimpse_runtime.backends.cuda import driver
from glimpse_runtime.backends.cuda.compaction import HostCompaction, KernelCompaction, choose_compaction
from glimpse_runtime.backends.cuda.device import Cuda
from glimpse_runtime.backends.cuda.memory import DeviceMemory, DeviceTensor
from glimpse_runtime.engines.gpu import Gpu
from glimpse_runtime.errors import BackendError

ORIN = Gpu("Orin", (8, 7), 8 << 30, True)


def compile_library(source: str, library: Path) -> Path:
    try:
        compiler = find_host_compiler()
    except PluginError as error:
        pytest.skip(str(error))
    flags = ["-shared", "-fPIC", "-O1", "-w", "-std=c++17", "-DGLIMPSE_HOST", f"-I{SOURCES}"]
    subprocess.run([compiler, *flags, ROOT / "tests" / "stand_ins" / source, "-o", library], check=True)
    return library


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda") / "lib64"
    folder.mkdir()
    compile_library("libcuda.cpp", folder / "libcuda.so.1")
    compile_library("libnvrtc.cpp", folder / "libnvrtc.so.12")
    return folder


@pytest.fixture
def library(libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """The driver's library; NVRTC is in CUDA_HOME, the cache is empty."""
    monkeypatch.setattr(driver, "DRIVER", str(libraries / "libcuda.so.1"))
    monkeypatch.setenv("CUDA_HOME", str(libraries.parent))
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_NVRTC_LOG", str(tmp_path / "compiled.txt"))
    # Packages of this environment do not count.
    monkeypatch.setattr("glimpse_plugins.nvrtc.find_spec", lambda name: None)
    loaded = ctypes.CDLL(str(libraries / "libcuda.so.1"))
    loaded.fake_held.restype = loaded.fake_launched.restype = ctypes.c_int64
    loaded.fake_version(12060)
    return loaded


@pytest.fixture
def memory(library: ctypes.CDLL) -> Iterator[DeviceMemory]:
    found = DeviceMemory(Cuda())
    yield found
    found.close()
    assert library.fake_held() == 0


def place(memory: DeviceMemory, array: np.ndarray) -> DeviceTensor:
    tensor = memory.empty(array.shape, str(array.dtype))
    memory.copy(array, tensor)
    return tensor


def test_arrays_go_there_and_back(memory: DeviceMemory) -> None:
    array = np.random.default_rng(0).standard_normal((1, 2, 300, 5)).astype(np.float32)
    tensor = place(memory, array)
    np.testing.assert_array_equal(memory.download(tensor), array)
    saved = memory.save([tensor], 7)
    np.testing.assert_array_equal(memory.download(saved[0]), array[:, :, :7])
    assert not memory.download(memory.allocate((3,), "int32")).any()
    copied = memory.empty(array.shape, "float32")
    memory.copy(tensor, copied)
    np.testing.assert_array_equal(memory.download(copied), array)


def test_graphs_and_events(memory: DeviceMemory) -> None:
    cuda, tensor = memory.cuda, memory.allocate((2,), "float32")
    pinned, events = cuda.pinned(8), [cuda.event(is_timed=True) for _ in range(2)]
    graph = cuda.capture(lambda: cuda.upload(pinned.address, tensor.address, 8))
    pinned.array.view(np.float32)[:] = [1, 2]
    assert memory.download(tensor).tolist() == [0, 0]
    for event in events:
        event.record()
        graph.launch()
    assert memory.download(tensor).tolist() == [1, 2]
    assert events[1].milliseconds_since(events[0]) == 0.5


def test_an_error_of_the_driver_has_its_name_and_advice(memory: DeviceMemory) -> None:
    with pytest.raises(BackendError, match=r"cuMemAllocFromPoolAsync failed with CUDA_ERROR_OUT_OF_MEMORY: .*--max"):
        memory.empty((1 << 41,), "uint8")


def test_a_library_that_lacks_a_function_is_an_old_driver(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "DRIVER", str(libraries / "libnvrtc.so.12"))
    with pytest.raises(BackendError, match=r"has no cuInit, so it is older than CUDA 11\.4"):
        Cuda()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_kernel_is_launched_once_and_is_equal_to_numpy(
    library: ctypes.CDLL, memory: DeviceMemory, dtype: str
) -> None:
    memory.compaction = choose_compaction(memory, ORIN)
    assert isinstance(memory.compaction, KernelCompaction)
    rng = np.random.default_rng(1)
    for case in range(30):
        tensors = 3 if case else 120  # more than one launch takes
        rows, width = int(rng.integers(1, 90)), int(rng.integers(1, 70))
        capacity = rows + int(rng.integers(0, 9))
        keep = np.flatnonzero(rng.random(rows) < [0.1, 0.2, 0.7, 1.0][case % 4])
        arrays = [rng.standard_normal((1, 2, capacity, width)).astype(dtype) for _ in range(tensors)]
        hidden = rng.standard_normal((1, rows, 7)).astype(np.float32)
        buffers, states = [place(memory, array) for array in arrays], place(memory, hidden)
        before = library.fake_launched()
        memory.compact(buffers, states, keep)
        assert library.fake_launched() - before == (1 if case else 2)
        for buffer, array in zip(buffers, arrays, strict=True):
            expected = array.copy()
            compact_rows(expected, keep)
            np.testing.assert_array_equal(memory.download(buffer)[:, :, : len(keep)], expected[:, :, : len(keep)])
        compact_rows(hidden, keep, axis=1)
        np.testing.assert_array_equal(memory.download(states)[:, : len(keep)], hidden[:, : len(keep)])


def test_it_is_compiled_once_and_again_when_the_cache_was_altered(
    library: ctypes.CDLL, memory: DeviceMemory, tmp_path: Path
) -> None:
    log = tmp_path / "compiled.txt"
    for _ in range(2):
        choose_compaction(memory, ORIN)
    assert log.read_text().count("compiled") == 1
    (image,) = (tmp_path / "cache" / "kernels").glob("*.cubin")
    image.write_bytes(b"code for sm_87, but not the one that was compiled\0")
    assert isinstance(choose_compaction(memory, ORIN), KernelCompaction)
    assert log.read_text().count("compiled") == 2
    assert image.read_bytes() == b"code for sm_87\0"
    image.chmod(0o666)  # anybody might have put it there
    choose_compaction(memory, ORIN)
    assert log.read_text().count("compiled") == 3


def test_without_a_compiler_rows_go_by_the_host_and_the_user_is_told(
    library: ctypes.CDLL, memory: DeviceMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library.fake_version(11040)
    memory.cuda.driver_version = 11040
    monkeypatch.setattr("glimpse_plugins.nvrtc._MAJORS", ())
    with caplog.at_level(logging.WARNING):
        assert isinstance(choose_compaction(memory, ORIN), HostCompaction)
    assert "libnvrtc.so.12 is newer than the driver's CUDA 11" in caplog.text
    assert 'run: pip install "glimpse-edge[cuda]"' in caplog.text


def test_a_gpu_that_the_compiler_does_not_know_is_named(
    library: ctypes.CDLL, memory: DeviceMemory, caplog: pytest.LogCaptureFixture
) -> None:
    choose_compaction(memory, Gpu("Xavier", (7, 2), 8 << 30, True))
    assert "NVRTC of CUDA 12.9 cannot compile compact_kernel.cu for sm_72: NVRTC_ERROR_COMPILATION" in caplog.text
    assert "sm_72 is not known" in caplog.text


def test_a_great_many_rows_ask_for_more_shared_memory(memory: DeviceMemory) -> None:
    memory.compaction = choose_compaction(memory, ORIN)
    array = np.arange(40_000, dtype=np.float32).reshape(1, 1, -1, 1)
    buffer, hidden = place(memory, array), place(memory, np.zeros((1, 40_000, 1), np.float32))
    keep = np.arange(1, 40_000)
    memory.compact([buffer], hidden, keep)
    np.testing.assert_array_equal(memory.download(buffer)[0, 0, :-1, 0], keep)


STRUCTURES = """
#include <cuda.h>
#include <cstdio>
int main() {
    using Pool = CUmemPoolProps;
    using Copy = CUDA_MEMCPY2D;
    std::printf("%zu %zu %zu ", sizeof(Pool), offsetof(Pool, location), offsetof(Pool, usage));
    std::printf("%zu %zu %zu", sizeof(Copy), offsetof(Copy, dstDevice), offsetof(Copy, Height));
}
"""


def nvcc() -> Path:
    try:
        return find_nvcc()
    except PluginError as error:
        pytest.skip(str(error))


def test_structures_and_numbers_are_those_of_cuda_h(tmp_path: Path) -> None:
    header = next((path for path in _headers(nvcc()) if path.exists()), None)
    if header is None:
        pytest.skip("there is no cuda.h beside nvcc")
    (tmp_path / "sizes.cpp").write_text(STRUCTURES)
    command = [find_host_compiler(), f"-I{header.parent}", "-include", "cstddef", tmp_path / "sizes.cpp"]
    subprocess.run([*command, "-o", tmp_path / "sizes"], check=True)
    found = subprocess.run([tmp_path / "sizes"], capture_output=True, text=True, check=True).stdout
    pool, copy = driver.PoolProperties, driver.Copy2d
    ours = [ctypes.sizeof(pool), pool.location_type.offset, pool.usage.offset]
    ours += [ctypes.sizeof(copy), copy.target.offset, copy.count.offset]
    assert [int(number) for number in found.split()] == ours
    text = header.read_text()
    for name in driver.FUNCTIONS:
        assert name.removesuffix("_v2") in text, name


def _headers(compiler: Path) -> list[Path]:
    real = compiler.resolve()
    homes = [real.parents[1], *sorted(Path("/usr/local").glob("cuda*"), reverse=True)]
    return [home / "include" / "cuda.h" for home in homes]


@pytest.mark.parametrize("architecture", [72, 87, 90])
def test_nvcc_takes_what_nvrtc_is_given(architecture: int, tmp_path: Path) -> None:
    compiler = nvcc()
    if architecture not in nvcc_architectures(compiler):
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    words = ["-ptx", "-std=c++17", f"-arch=compute_{architecture}", SOURCES / "compact_kernel.cu"]
    subprocess.run([compiler, *words, "-o", tmp_path / "kernel.ptx"], check=True)
    text = (tmp_path / "kernel.ptx").read_text()
    assert ".entry glimpse_compact_kernel" in text
    assert f".target sm_{architecture}" in text


@pytest.mark.parametrize("architecture", [75, 87, 90])
def test_the_real_nvrtc_compiles_it(architecture: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glimpse_plugins.compiled import kernel_image

    try:
        find_nvrtc(13)
    except PluginError:
        pytest.skip("NVRTC is not installed")
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    image = kernel_image((architecture // 10, architecture % 10), 13)
    assert image.startswith(b"\x7fELF")
    assert b"glimpse_compact_kernel" in image
