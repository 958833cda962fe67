"""The measurements of benchmarks/speed/gpu, run against a driver whose device memory is host memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

from glimpse_plugins.build import SOURCES, build_host
from glimpse_plugins.errors import PluginError
from glimpse_plugins.toolchain import find_host_compiler, gpu_architecture

STAND_INS = ROOT / "tests" / "stand_ins"
DOES_NOTHING = """
#include <stdint.h>
extern "C" int32_t glimpse_compact(const void *a, int32_t b, const void *c, int32_t *d, void *e) { return 0; }
extern "C" void glimpse_compact_explain(int32_t a, char *b, int32_t c) {}
"""


def compile_native(source: Path, library: Path, *flags: str) -> None:
    try:
        compiler = find_host_compiler()
    except PluginError as error:
        pytest.skip(str(error))
    command = [compiler, "-x", "c++", "-std=c++17", "-shared", "-fPIC", "-w", *flags, source, "-o", library]
    subprocess.run(command, check=True)


def harness(*arguments: str | Path, driver: Path | None = None) -> subprocess.CompletedProcess[str]:
    roots = os.pathsep.join(str(ROOT / root) for root in ("runtime", "plugins"))
    environment = {**os.environ, "PYTHONPATH": roots}
    if driver is not None:
        environment |= {
            "LD_LIBRARY_PATH": str(driver),
            "CUDA_HOME": str(driver),
            "GLIMPSE_CACHE": str(driver / "cache"),
        }
    command = [sys.executable, ROOT / "benchmarks" / "speed" / "gpu" / "compaction.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    flags = ("-DGLIMPSE_HOST", f"-I{SOURCES}")
    compile_native(STAND_INS / "libcuda.cpp", folder / "libcuda.so.1", *flags)
    (folder / "lib64").mkdir()
    compile_native(STAND_INS / "libnvrtc.cpp", folder / "lib64" / "libnvrtc.so.12")
    return folder


SMALL = ("--rows", "64", "--layers", "2", "--hidden", "32", "--masks", "60", "--repeats", "2")


def test_the_kernels_are_compared_with_numpy_and_measured(driver: Path) -> None:
    done = harness(*SMALL, "--json", "--library", build_host().library, driver=driver)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["device"] == "fake"
    assert (report["masks"], report["wrong"]) == (60, 0)
    assert [timing["kept_share"] for timing in report["timings"]] == [0.1, 0.25, 0.5, 1.0] * 2
    one_row = 2 * 2 * 2 * 128 * 2 + 32 * 4 + 12
    assert report["timings"][3]["megabytes_kept"] == pytest.approx(64 * one_row / 1e6)
    assert "64 rows x 2 layers" in harness(*SMALL, "--library", build_host().library, driver=driver).stdout


def test_the_kernel_needs_no_compiler_but_nvrtc(driver: Path) -> None:
    done = harness(*SMALL, "--json", driver=driver)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["wrong"] == 0
    assert len(list((driver / "cache" / "kernels").glob("*.cubin"))) == 1


def test_a_wrong_result_is_a_failure(driver: Path, tmp_path: Path) -> None:
    source = tmp_path / "nothing.c"
    source.write_text(DOES_NOTHING)
    compile_native(source, tmp_path / "libnothing.so")
    done = harness(*SMALL, "--json", "--library", tmp_path / "libnothing.so", driver=driver)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["wrong"] > 50


def test_without_a_gpu_it_says_so() -> None:
    try:
        gpu_architecture()
    except PluginError:
        done = harness("--json")
        assert done.returncode == 3
        assert "no NVIDIA driver" in done.stderr
        assert "Traceback" not in done.stderr
        return
    pytest.skip("there is a GPU")


def test_a_library_that_is_none_is_named(driver: Path, tmp_path: Path) -> None:
    shutil.copy(__file__, tmp_path / "not-a-library.so")
    done = harness(*SMALL, "--library", tmp_path / "not-a-library.so", driver=driver)
    assert done.returncode == 3
    assert "not-a-library.so cannot be loaded" in done.stderr
