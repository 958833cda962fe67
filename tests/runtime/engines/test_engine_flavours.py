"""Which TensorRT there is, and what differs between versions."""

import sys
from pathlib import Path

import pytest
from support.places import ROOT

from glimpse_runtime.engines import gpu, wheel
from glimpse_runtime.engines.flavours import FLAVOURS, flavour_of, installed, version_numbers
from glimpse_runtime.engines.gpu import Gpu
from glimpse_runtime.engines.key import gpu_identity, is_turing
from glimpse_runtime.errors import BackendError

ORIN = Gpu("Orin", (8, 7), 8 << 30, True)
ADA = Gpu("NVIDIA RTX 4070", (8, 9), 12 << 30, False)
TURING = Gpu("NVIDIA RTX 2080", (7, 5), 8 << 30, False)
THOR = Gpu("Thor", (11, 0), 128 << 30, True)


def test_importing_the_table_imports_no_tensorrt() -> None:
    assert "glimpse_runtime.engines.flavours" in sys.modules
    source = (ROOT / "runtime/glimpse_runtime/engines/flavours.py").read_text()
    assert "import tensorrt" not in source


@pytest.mark.parametrize(
    ("version", "since", "best"),
    [
        ("10.3.0", (10, 3), "plain"),
        ("10.6.1", (10, 3), "plain"),
        ("10.7.0", (10, 7), "plain"),
        ("10.13.3.9", (10, 13), "plain"),
        ("10.14.1", (10, 13), "plain"),
        ("10.15.0.1", (10, 15), "opset24"),
        ("10.16.1", (10, 15), "opset24"),
        ("11.4.1", (11,), "opset24"),
        ("12.0", (11,), "opset24"),
    ],
)
def test_a_version_is_the_last_row_that_is_not_newer(version: str, since: tuple[int, ...], best: str) -> None:
    found = flavour_of("tensorrt", version)
    assert found.since == since
    assert found.dialects[0] == best


def test_facts_of_the_versions() -> None:
    """As in the vendor's release notes and headers; not as in the table."""
    at = {version: flavour_of("tensorrt", version) for version in ("10.3.0", "10.9.0", "10.13.3", "10.15.0", "11.1.0")}
    assert [at[v].typed_by_flag for v in at] == [True, True, True, True, False]
    assert [at[v].resolution for v in at] == ["function", "registered", "registered", "attribute", "attribute"]
    assert [at[v].fused_attention for v in at] == [False, False, False, True, True]
    assert [at[v].streams for v in at] == [False, False, True, True, True]
    assert {at[v].profiles for v in at} == {"split"}
    rtx = flavour_of("tensorrt-rtx", "1.7.1.116")
    assert (rtx.profiles, rtx.portable, rtx.timing_cache, rtx.typed_by_flag) == ("wide", True, False, False)


def test_rows_of_a_flavour_ascend() -> None:
    for name in {flavour.name for flavour in FLAVOURS}:
        rows = [flavour.since for flavour in FLAVOURS if flavour.name == name]
        assert rows == sorted(set(rows))


@pytest.mark.parametrize(("name", "version"), [("tensorrt", "8.6.1"), ("tensorrt", "10.0.1"), ("tensorrt-rtx", "1.3")])
def test_an_old_version_is_refused(name: str, version: str) -> None:
    with pytest.raises(BackendError, match=rf"{version} is too old, .* is the first that works; .*(apt|pip)"):
        flavour_of(name, version)


def test_numbers_of_a_version() -> None:
    assert version_numbers("10.3.0.30-1+cuda12.5") == (10, 3, 0, 30)
    assert version_numbers("11.0.0.dev1") == (11, 0, 0)
    assert version_numbers("unknown") == ()


def test_the_installed_one_is_found(fake_tensorrt: pytest.MonkeyPatch) -> None:
    fake_tensorrt.setenv("FAKE_TENSORRT", "10.13.2")
    found = installed("tensorrt")
    assert (found.title, found.flavour.since) == ("TensorRT 10.13.2", (10, 13))
    assert installed("tensorrt-rtx").title == "TensorRT-RTX 1.7.1"


def test_what_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setattr(wheel, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"module tensorrt is not installed; .*python3-libnvinfer"):
        installed("tensorrt")
    with pytest.raises(BackendError, match=r"tensorrt_rtx is not installed; run: pip install \"glimpse-edge\[rtx\]\""):
        installed("tensorrt-rtx")
    with pytest.raises(BackendError, match="unknown kind of TensorRT 'cuda'"):
        installed("cuda")


def test_a_broken_installation_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(BackendError, match=r"tensorrt cannot be loaded: libnvinfer\.so\.10"):
        installed("tensorrt")


def test_full_tensorrt_builds_for_the_gpu_that_is_there(fake_tensorrt: pytest.MonkeyPatch) -> None:
    found = installed("tensorrt")
    assert gpu_identity(found, ORIN) == "Orin (8.7)"
    assert gpu_identity(found, THOR) != gpu_identity(found, ORIN)
    with pytest.raises(BackendError, match="no CUDA device was found; run the same command on the device"):
        gpu_identity(found, None)


def test_rtx_builds_for_a_range_of_gpus(fake_tensorrt: pytest.MonkeyPatch) -> None:
    found = installed("tensorrt-rtx")
    assert gpu_identity(found, None) == gpu_identity(found, ADA) == "compute capability 8.0 and later"
    assert gpu_identity(found, TURING) == "compute capability 7.5"
    assert is_turing(TURING)
    assert not is_turing(ADA)
    for other in (ORIN, THOR, Gpu("NVIDIA H100", (9, 0), 80 << 30, False), Gpu("GTX 1080", (6, 1), 8 << 30, False)):
        with pytest.raises(BackendError, match="use --target tensorrt"):
            gpu_identity(found, other)


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DRIVER", "libcuda-that-is-not-there.so.1")
    assert gpu.current_gpu.__wrapped__() is None


DRIVER = """
int cuInit(unsigned flags) { return FAIL; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal; }
int cuDeviceGetName(char *name, int length, int device) {
    const char *text = "Orin"; int i = 0; for (; text[i]; i++) name[i] = text[i]; name[i] = 0; return device != 7;
}
int cuDeviceTotalMem_v2(unsigned long *total, int device) { *total = 8ul << 30; return device != 7; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? 1 : -1; return device != 7;
}
"""


@pytest.mark.parametrize("fails", [0, 100])
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: int) -> None:
    """Against a library with the driver's functions; 100 is what a machine without a device answers."""
    import shutil
    import subprocess

    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "driver.c").write_text(DRIVER.replace("FAIL", str(fails)))
    library = tmp_path / f"libcuda{fails}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    monkeypatch.setattr(gpu, "DRIVER", str(library))
    assert gpu.current_gpu.__wrapped__() == (None if fails else ORIN)


def make_wheel(folder: Path) -> Path:
    """A folder that looks like the wheel's libraries."""
    libraries = folder / "tensorrt_rtx_libs"
    libraries.mkdir()
    (libraries / "__init__.py").write_text("")
    for name in ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"):
        (libraries / name).write_bytes(b"library")
    return libraries


@pytest.mark.skipif(sys.platform != "linux", reason="the fault is of the Linux wheel")
def test_the_wheels_missing_library_is_put_beside_its_parser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    libraries = make_wheel(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "tensorrt_rtx_libs", raising=False)
    monkeypatch.setattr(wheel, "_loaded", [])
    opened: list[Path] = []
    monkeypatch.setattr(wheel.ctypes, "CDLL", lambda name: opened.append(Path(name)))
    wheel.repair_rtx_wheel()
    assert [path.name for path in opened] == ["libtensorrt_onnxparser_rtx.so.1"]
    assert opened[0].parent.is_relative_to(tmp_path / "cache")
    assert (opened[0].parent / "libtensorrt_rtx.so").resolve() == libraries / "libtensorrt_rtx.so.1"
    wheel.repair_rtx_wheel()
    assert len(opened) == 1, "the second call finds it done"


@pytest.mark.skipif(sys.platform != "linux", reason="the fault is of the Linux wheel")
def test_it_is_too_late_after_the_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    libraries = make_wheel(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_libs", pytest)  # any module: it counts as imported
    monkeypatch.setattr(wheel, "_loaded", [])
    monkeypatch.setattr(wheel, "_wheel_folder", lambda: libraries)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    with pytest.raises(BackendError, match=r"ln -s libtensorrt_rtx\.so\.1 .*/libtensorrt_rtx\.so"):
        wheel.repair_rtx_wheel()
    (tmp_path / "libtensorrt_rtx.so").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    wheel.repair_rtx_wheel()
    monkeypatch.delenv("LD_LIBRARY_PATH")
    (libraries / "libtensorrt_rtx.so").write_bytes(b"")
    wheel.repair_rtx_wheel()
