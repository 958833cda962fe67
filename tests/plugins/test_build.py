"""Libraries are built once, appear whole or not at all, and what is missing is named."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.places import ROOT
from support.slow import slow

from glimpse_plugins import build, toolchain
from glimpse_plugins.build import SOURCES, build_host, build_onnxruntime, build_plugin
from glimpse_plugins.errors import PluginError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plugins"


@pytest.fixture
def compiler() -> Path:
    try:
        return toolchain.find_host_compiler()
    except PluginError as error:
        pytest.skip(str(error))


@pytest.fixture
def nvcc() -> Path:
    try:
        return toolchain.find_nvcc()
    except PluginError as error:
        pytest.skip(str(error))


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that a test may change."""
    folder = tmp_path / "csrc"
    shutil.copytree(SOURCES, folder)
    monkeypatch.setattr(build, "SOURCES", folder)
    return folder


@pytest.mark.usefixtures("compiler")
def test_a_library_is_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_host().library
    monkeypatch.setattr(build, "output_of", lambda command: pytest.fail(f"ran {command}"))
    assert build_host().library == first
    assert first.parent.parent == cache
    assert [path.name for path in cache.iterdir()] == [first.parent.name]
    assert json.loads((first.parent / "build.json").read_text())["library"] == first.name


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["compact.h", "compact_block.h", "compact.cu"])
def test_other_sources_are_another_library(sources: Path, name: str) -> None:
    first = build_host().library
    (sources / name).write_text((sources / name).read_text() + "\n// changed\n")
    assert build_host().library != first
    assert first.exists()


@pytest.mark.usefixtures("compiler")
def test_what_the_compiler_says_is_the_error(sources: Path, cache: Path) -> None:
    text = (sources / "compact.cu").read_text()
    (sources / "compact.cu").write_text(text.replace("#include <cstdio>", "#include <cstdio>\nint wrong = nonsense;"))
    with pytest.raises(PluginError, match=r"compact\.cu:\d+:\d+: error: .*nonsense"):
        build_host()
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("compiler")
def test_two_processes_may_build_the_same(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The other is done while this one compiles."""
    compile_it = build.output_of
    others: list[Path] = []

    def slow(command: list[str]) -> str:
        monkeypatch.setattr(build, "output_of", compile_it)
        others.append(build_host().library)
        return compile_it(command)

    monkeypatch.setattr(build, "output_of", slow)
    assert [build_host().library] == others
    assert len(list(cache.iterdir())) == 1


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.shutil, "which", lambda name, path=None: None)
    with pytest.raises(PluginError, match=r"nvcc is neither in \$CUDA_HOME/bin .* set CUDA_HOME"):
        build_plugin([89])
    with pytest.raises(PluginError, match=r"no C\+\+ compiler: .* CXX"):
        build_host()


def test_cuda_home_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "bin" / "nvcc"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\necho Cuda compilation tools, release 12.6, V12.6.68\n")
    own.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert toolchain.find_nvcc() == own
    assert toolchain.nvcc_version(own) == "12.6.68"
    assert toolchain.nvcc_architectures(own) == []
    with pytest.raises(PluginError, match=r"CUDA 12\.6\.68\) cannot compile for sm_87"):
        build_plugin([87])


def test_without_a_gpu_the_architecture_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(toolchain.ctypes, "CDLL", missing)
    with pytest.raises(PluginError, match="name the architectures"):
        toolchain.gpu_architecture()


@pytest.mark.usefixtures("compiler")
def test_the_version_of_tensorrt_is_read_from_its_headers(tmp_path: Path) -> None:
    header = tmp_path / "NvInferVersion.h"
    header.write_text("#define MAJOR 10\n#define NV_TENSORRT_MAJOR MAJOR\n#define NV_TENSORRT_MINOR 3\n")
    assert toolchain.tensorrt_version(tmp_path) is None
    header.write_text(header.read_text() + "#define NV_TENSORRT_PATCH 0 //!< patch\n")
    assert toolchain.tensorrt_version(tmp_path) == "10.3.0"


@pytest.mark.usefixtures("nvcc", "compiler")
def test_a_named_folder_without_headers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"no TensorRT headers .* TENSORRT_INCLUDE_DIR"):
        build_plugin([89], tmp_path)
    with pytest.raises(PluginError, match="ONNXRUNTIME_INCLUDE_DIR"):
        build_onnxruntime(tmp_path, [89])


@pytest.mark.usefixtures("compiler")
def test_nvcc_compiles_the_kernels(nvcc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENSORRT_INCLUDE_DIR", raising=False)
    known = toolchain.nvcc_architectures(nvcc)
    plugin = build_plugin([number for number in toolchain.TARGETS if number in known][:1])
    exported = subprocess.run(
        ["nm", "-D", "--defined-only", plugin.library], capture_output=True, text=True, check=True
    )
    names = {line.split()[2] for line in exported.stdout.splitlines()}
    assert names >= {"glimpse_compact", "glimpse_compact_explain"}
    assert ("getCreators" in names) == (plugin.tensorrt is not None)
    assert not [name for name in names if "cuda" in name], "CUDA's own functions must stay within"


@pytest.mark.usefixtures("nvcc")
@slow
def test_cmake_builds_the_same(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake")
    folders = [f"-D{name}={os.environ.get(name, '')}" for name in ("TENSORRT_INCLUDE_DIR", "ONNXRUNTIME_INCLUDE_DIR")]
    configure = [cmake, "-S", SOURCES, "-B", tmp_path, "-DCMAKE_CUDA_ARCHITECTURES=89", *folders]
    configured = subprocess.run(configure, capture_output=True, text=True, check=False)
    assert configured.returncode == 0, configured.stderr
    if not os.environ.get("TENSORRT_INCLUDE_DIR") and toolchain.tensorrt_version(None) is None:
        assert "-DTENSORRT_INCLUDE_DIR" in configured.stderr
    subprocess.run([cmake, "--build", tmp_path], capture_output=True, check=True)
    libraries = {path.name for path in tmp_path.glob("*.so")}
    assert {"libglimpse_compact.so", "libglimpse_compact_host.so"} <= libraries


def test_every_source_is_in_the_wheel_and_in_the_key() -> None:
    import configparser

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.package_data"]["glimpse_plugins"] == "csrc/*"
    hashed = {*build.HEADERS, build.KERNEL, build.TENSORRT, build.ONNXRUNTIME}
    assert hashed | {"CMakeLists.txt"} == {path.name for path in SOURCES.iterdir()}
