"""Fixtures that several test files share."""

import os

# A worker of pytest-xdist takes a core: libraries that took all of them would wait for each other.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER is not None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_ins.hub_server import Hub, serving
from support.bundles import options
from support.commands import Command, run_apart, run_here
from support.once import once
from support.places import FAKE_TENSORRT, GOLDEN, TESTS

# Bundles are marked as verified in a cache folder; tests must not touch the user's.
os.environ["GLIMPSE_CACHE"] = str(TESTS / ".cache")
os.environ.pop("GLIMPSE_BUNDLE", None)

Make = Callable[[Path], Path]
Shared = Callable[[str, Make], Path]


@pytest.fixture(scope="session", autouse=True)
def one_thread_each() -> Iterator[None]:
    """Engines of a worker run on its core alone."""
    if WORKER is None:
        yield
        return
    from glimpse_runtime.backends import ort, ort_cuda

    original = ort.session_options

    def single(module: Any, threads: int | None) -> Any:
        return original(module, threads or 1)

    with pytest.MonkeyPatch.context() as patch:
        for backend in (ort, ort_cuda):
            patch.setattr(backend, "session_options", single)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes a folder once for all workers of a run, which only read it."""
    base = tmp_path_factory.getbasetemp()
    return lambda name, make: once((base if WORKER is None else base.parent) / "shared" / name, make)


@pytest.fixture(scope="session")
def golden() -> Path:
    """A model folder: base/, adapter/, cases/, images/."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden_bundle(shared: Shared, golden: Path) -> Path:
    """The golden model as a bundle without a tokenizer."""
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    from glimpse_export import export

    return shared("golden", lambda folder: export(options(golden), folder / "bundle")) / "bundle"


@pytest.fixture
def model(golden: Path, tmp_path: Path) -> Path:
    """A copy of the golden model that a test may change."""
    for part in ("base", "adapter"):
        shutil.copytree(golden / part, tmp_path / "model" / part)
    return tmp_path / "model"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where an export of the test's own may write its bundle."""
    return tmp_path / "bundle"


@pytest.fixture(scope="session")
def pocket() -> Iterator[object]:
    """A session of the packaged pocket model."""
    from glimpse_runtime import load

    with load() as vlm:
        yield vlm


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A stand-in of the Hugging Face hub, without repositories."""
    with serving() as hub:
        yield hub


@pytest.fixture
def photo() -> np.ndarray:
    """A small picture with structure, (168, 224, 3) uint8."""
    rows, columns = np.mgrid[:168, :224]
    return np.stack([rows, columns, (rows * columns) % 251], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def command_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The cache folder of commands."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def process(command_cache: str) -> Command:
    """Runs the ``main`` of a module of this checkout as a command in a process of its own, with its words."""

    def run(module: str, *words: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
        return run_apart(module, *words, **{"GLIMPSE_CACHE": command_cache, **changes})

    return run


@pytest.fixture(scope="session")
def command(command_cache: str, process: Command) -> Command:
    """Does the same in this process, unless the environment that is asked for needs another."""

    def run(module: str, *words: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
        if any(not name.startswith("GLIMPSE_") for name in changes):
            return process(module, *words, **changes)
        return run_here(module, *words, **{"GLIMPSE_CACHE": command_cache, **changes})

    return run


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Makes ``tensorrt`` and ``tensorrt_rtx`` stand-ins, here and in processes started from here."""
    from glimpse_runtime.engines import flavours

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("fake_trt", "tensorrt", "tensorrt_rtx")]:
            del sys.modules[name]

    real = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("tensorrt", "tensorrt_rtx")}
    forget()
    monkeypatch.syspath_prepend(str(FAKE_TENSORRT))
    monkeypatch.setattr(flavours, "repair_rtx_wheel", lambda: None)
    yield monkeypatch
    forget()
    sys.modules.update(real)


@pytest.fixture(scope="session")
def engine_bundle(shared: Shared) -> Path:
    """Pocket in the dialects that TensorRT imports, in float16."""
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    from glimpse_export import ExportOptions, export
    from glimpse_export.weights.precision import Precision

    precision = Precision.choose("fp16", gpu=True)
    made = ExportOptions("pocket", dialects=("opset24", "plain"), precision=precision, certify="off")
    return shared("engines", lambda folder: export(made, folder / "pocket")) / "pocket"


@pytest.fixture(scope="session")
def traced_bundle(shared: Shared, golden: Path) -> Path:
    """The golden model in the dialects that TensorRT imports, with the outputs that tracing adds."""
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    from glimpse_export import export

    made = options(golden, dialects=("opset24", "plain"), trace=True)
    return shared("traced", lambda folder: export(made, folder / "bundle")) / "bundle"
