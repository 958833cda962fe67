"""Runs a bundle on the device cuda and prints as JSON what its steps ask of the stand-ins: drive.py ROOT BUNDLE FOLDER.

It runs in an environment with one onnxruntime-gpu, and the libraries of build.py on LD_LIBRARY_PATH.
"""

import ctypes
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT, BUNDLE = Path(sys.argv[1]), Path(sys.argv[2])
sys.path[:0] = [str(ROOT / room) for room in ("runtime", "models", "plugins")]

import numpy as np
import onnxruntime

from glimpse_runtime import Pruning, load
from glimpse_runtime.backends import ort_cuda
from glimpse_runtime.backends.ort import session_options
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.stats import Stats
from glimpse_runtime.steps import pipeline, select

TEXT = [5, 6, 7, 8]
IMAGE = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)


class Ledger:
    """What the stand-ins were asked for."""

    def __init__(self) -> None:
        """Finds it among the libraries."""
        self._library = ctypes.CDLL("libledger.so")
        self._file = Path(tempfile.mkdtemp()) / "ledger.txt"

    def reset(self) -> None:
        """Forgets."""
        self._library.ledger_reset()

    def read(self) -> dict[str, Any]:
        """Counts since the last reset: sums of each kind, and how often each kernel was launched."""
        self._library.ledger_write(str(self._file).encode())
        kinds: dict[str, Counter[str]] = {kind: Counter() for kind in ("launch", "copy", "wait", "bytes", "memset")}
        for line in self._file.read_text().splitlines():
            number, kind, name = line.split(" ", 2)
            kinds[kind][name] += int(number)
        return {
            "launches": kinds["launch"].total(),
            "to_device": kinds["copy"]["host_to_device"],
            "to_host": kinds["copy"]["device_to_host"],
            "bytes_to_host": kinds["bytes"]["device_to_host"],
            "waits": kinds["wait"].total(),
            "kernels": dict(kinds["launch"].most_common()),
            "waited": dict(kinds["wait"]),
        }


def steps(ledger: Ledger) -> dict[str, Any]:
    """Asks a question and decodes some tokens."""
    for module in (pipeline, select):  # nothing is computed, so what memory held before is what comes out
        module.require_finite = lambda *given: None
    session = load(BUNDLE, device="cuda", warmup="off")
    manifest = session.bundle.manifest
    cells = sum(grid.visual_tokens for grid in session._reading.scene(IMAGE, None)[0].grids)
    ids = [*TEXT, *[manifest.tokens.image] * cells, *TEXT]
    ledger.reset()
    session.ask_ids(IMAGE, ids, pruning=Pruning(max_keep_ratio=0.5), max_new_tokens=1)
    first = ledger.read()
    opened = session._open_pipeline()
    for _ in range(3):
        ledger.reset()
        opened.decode(5, Stats(), Interrupt())
        step = ledger.read()
    layers = manifest.text.layers
    session.close()
    return {"ask": first, "step": step, "layers": layers, "tokens": cells}


def ort_version() -> str:
    """The CUDA that this onnxruntime is built for."""
    from onnxruntime.capi import build_and_package_info

    return str(build_and_package_info.cuda_version)


def place(folder: Path) -> None:
    """Loads every graph as the backend does, and lets onnxruntime say on standard error where its nodes are."""
    for graph in sorted(BUNDLE.glob("*.onnx")):
        options = session_options(onnxruntime, None)
        options.log_severity_level = options.log_verbosity_level = 0
        options.optimized_model_filepath = str(folder / graph.name)
        os.write(2, f"graph {graph.stem}\n".encode())
        settings = ort_cuda.provider_options(0x1000)
        providers = [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]
        onnxruntime.InferenceSession(str(graph), options, providers=providers)


def main() -> None:
    """Writes placed graphs to a folder, and counts to standard output."""
    ctypes.CDLL("libcuda.so.1").fake_version(int(ort_version().partition(".")[0]) * 1000)
    place(Path(sys.argv[3]))
    os.write(2, b"graph -\n")
    print(json.dumps(steps(Ledger())))


if __name__ == "__main__":
    main()
