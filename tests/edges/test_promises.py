"""What the whole process does to network, files and children, whatever a library does by default."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

HERE = Path(__file__).parent
ASKS = """
import sys, time
import numpy as np
import glimpse_runtime
frame = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
with glimpse_runtime.load() as vlm:
    for _ in range(10):
        assert vlm.ask(frame, "Is there a star?").text
    time.sleep(float(sys.argv[1]))
"""
# A library's own threads may wait a while before they call home.
WAIT_S = "4"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("watching a process needs Linux and a C compiler")
    path = tmp_path_factory.mktemp("shim") / "watch.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", path, HERE / "watch.c", "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return path


def watched(shim: Path, place: Path, code: str, *words: str, **environment: str) -> list[str]:
    """Runs code in a process with a home of its own and returns what the shim noted."""
    home, log = place / "home", place / "log"
    home.mkdir()
    log.touch()
    roots = os.pathsep.join(str(ROOT / root) for root in ("runtime", "models", "plugins", "export"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GLIMPSE_", "XDG_", "ORT_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={
            **clean,
            "HOME": str(home),
            "PYTHONPATH": roots,
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_PRELOAD": str(shim),
            "GLIMPSE_WATCH": str(log),
            **environment,
        },
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not list(home.iterdir()), "something was left in the home folder"
    return log.read_text().splitlines()


def test_the_shim_sees(shim: Path, tmp_path: Path) -> None:
    code = "import socket, pathlib; socket.socket(); pathlib.Path('x').write_text('y')"
    noted = watched(shim, tmp_path, code)
    assert [line.split()[0] for line in noted] == ["socket", "write"], noted


def test_load_and_ten_asks_touch_nothing_else(shim: Path, tmp_path: Path) -> None:
    noted = watched(shim, tmp_path, ASKS, WAIT_S)
    allowed = ("write /dev/", "write /proc/", "write /sys/")
    assert [line for line in noted if not line.startswith(allowed)] == []


def test_telemetry_is_off_before_the_engine_is_imported() -> None:
    code = "import os, glimpse_runtime\nglimpse_runtime.load().close()\nprint(os.environ['ORT_DISABLE_TELEMETRY'])"
    roots = os.pathsep.join(str(ROOT / root) for root in ("runtime", "models", "plugins"))
    clean = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    for own, expected in ((None, "1"), ("0", "0")):  # whoever wants it keeps it
        extra = {} if own is None else {"ORT_DISABLE_TELEMETRY": own}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**clean, "PYTHONPATH": roots, **extra},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.stdout.strip() == expected, done.stderr
