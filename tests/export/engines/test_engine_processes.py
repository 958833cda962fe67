"""Builds in processes of their own: side by side, dying, killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from building import build
from support.places import FAKE_TENSORRT, ROOT
from support.slow import slow

pytest.importorskip("onnx")


from glimpse_runtime.engines.store import engine_folder, find_engine

pytestmark = pytest.mark.usefixtures("machine")

ENGINES = 5
COMMAND = """
import sys
for name in ("torch", "transformers", "onnx_ir", "safetensors", "onnxruntime"):
    sys.modules[name] = None
from glimpse_export.cli.export import main
from glimpse_export.engines import builder
from glimpse_runtime.engines.gpu import Gpu
builder.current_gpu = lambda: Gpu("Orin", (8, 7), 8 << 30, True)
main()
"""


def start(bundle: Path, **environment: str) -> subprocess.Popen[str]:
    """Starts a process that builds, without what a device does not have."""
    path = [*(ROOT / root for root in ("runtime", "export", "models", "plugins")), FAKE_TENSORRT]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--bundle", str(bundle), "--target", "tensorrt", "--no-plugin"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **environment},
    )


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody waits for stays in the table for a while."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_device_needs_no_torch(engine_bundle: Path) -> None:
    process = start(engine_bundle)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len([line for line in out.splitlines() if Path(line).is_file()]) == ENGINES


@slow
def test_two_processes_build_an_engine_once(engine_bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [start(engine_bundle, FAKE_TENSORRT_LOG=str(log), FAKE_TENSORRT_SLOW="0.5") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all(len(out.splitlines()) == ENGINES for out, _ in outputs)
    assert len(log.read_text().splitlines()) == ENGINES
    assert any("another process is building this engine" in err for _, err in outputs)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("abort", ["signal SIGABRT", "terminate called without an active exception"]),
        ("kill", ["signal SIGKILL", "memory ran out", "int4"]),
    ],
)
def test_a_build_that_dies_says_so(engine_bundle: Path, fault: str, words: list[str]) -> None:
    _, err = start(engine_bundle, FAKE_TENSORRT_FAULT=fault).communicate(timeout=120)
    assert "Error: vision: the process that builds the engine died" in err
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_a_killed_build_leaves_nothing_that_counts(engine_bundle: Path, tmp_path: Path) -> None:
    """Killed while the engine is built; the next run builds it, and clears up."""
    log = tmp_path / "log"
    process = start(engine_bundle, FAKE_TENSORRT_SLOW="60", FAKE_TENSORRT_LOG=str(log))
    wait_until(lambda: list((tmp_path / "cache").rglob(".vision.engine.tmp-*")))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    if sys.platform == "linux":
        child = int(log.read_text().split()[1])
        wait_until(lambda: not is_running(child))
    (folder,) = {path.parent for path in (tmp_path / "cache").rglob(".vision.engine.tmp-*")}
    engines, _ = build(engine_bundle, plugin=False)
    assert engine_folder(engines["vision"].record.key) == folder
    assert not list(folder.glob(".*.tmp-*"))
    assert find_engine(engines["vision"].record.key) is not None
