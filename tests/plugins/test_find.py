"""The kernel library is found where it was built for this GPU from the present sources, and only there."""

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from glimpse_plugins.build import KERNEL_LIBRARY, source_hash
from glimpse_plugins.errors import PluginError
from glimpse_plugins.find import find_kernel_library
from glimpse_runtime.backends.cuda.compaction import find_kernels
from glimpse_runtime.engines.gpu import Gpu

ORIN = (8, 7)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    return tmp_path


def put(cache: Path, name: str, numbers: tuple[int, ...] = (87,), age: int = 0, **changes: object) -> Path:
    folder = cache / "plugins" / name
    folder.mkdir(parents=True)
    flags = ["-O3", *(f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers)]
    (folder / "build.json").write_text(json.dumps({"sources": source_hash(), "flags": flags, **changes}))
    library = folder / KERNEL_LIBRARY
    library.write_bytes(b"no library")
    os.utime(library, (1e9 - age, 1e9 - age))
    return library


def test_the_newest_for_this_gpu_is_taken(cache: Path) -> None:
    assert find_kernel_library(ORIN) is None
    put(cache, "old", (80, 87), age=100)
    right = put(cache, "new", (87, 110))
    put(cache, "other", (89,))
    put(cache, "longer", (870,))
    assert find_kernel_library(ORIN) == right
    assert find_kernel_library((8, 9)) == cache / "plugins" / "other" / KERNEL_LIBRARY
    assert find_kernel_library((9, 0)) is None


def test_one_of_other_sources_or_without_a_record_is_not_taken(cache: Path) -> None:
    put(cache, "sources", sources="0" * 64)
    put(cache, "flags", flags=None)
    (put(cache, "damaged").parent / "build.json").write_text("{")
    (put(cache, "missing").parent / "build.json").unlink()
    assert find_kernel_library(ORIN) is None


def test_one_that_cannot_be_loaded_is_a_warning(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_it(cuda: object, capability: tuple[int, int]) -> None:
        raise PluginError("there is no NVRTC")

    monkeypatch.setattr("glimpse_runtime.backends.cuda.compaction.CompactModule", compile_it)
    path = put(cache, "broken")
    with caplog.at_level(logging.WARNING):
        assert find_kernels(SimpleNamespace(cuda=None), Gpu("Orin", ORIN, 1 << 33, True)) is None  # type: ignore[arg-type]
    assert str(path) in caplog.text


def test_without_a_gpu_there_is_none(cache: Path) -> None:
    put(cache, "any")
    assert find_kernels(None, None) is None  # type: ignore[arg-type]
