"""What goes wrong, or takes long, when the environment says so: for processes that a test starts."""

import os
import signal
import time
from pathlib import Path


def at_start(name: str) -> None:
    """Writes a line into the file ``FAKE_TENSORRT_LOG``, and ends the process as ``FAKE_TENSORRT_FAULT`` says."""
    if log := os.environ.get("FAKE_TENSORRT_LOG"):
        with Path(log).open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
    fault = os.environ.get("FAKE_TENSORRT_FAULT")
    if fault == "abort":
        print("terminate called without an active exception", flush=True)
        os.abort()
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "null":
        raise TypeError("pybind11::init(): factory function returned nullptr")


def at_build() -> str | None:
    """``FAKE_TENSORRT_SLOW`` seconds pass; returns the reason why the build fails."""
    time.sleep(float(os.environ.get("FAKE_TENSORRT_SLOW", "0")))
    if os.environ.get("FAKE_TENSORRT_FAULT") == "build":
        return "[optimizer.cpp::computeCosts::4048] Error Code 10: Could not find any implementation for node MatMul_9"
    return None
