"""What a bundle asks of a GPU under one onnxruntime-gpu, by its own CUDA provider on stand-ins of CUDA."""

import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from cuda_standin.build import build

_HERE = Path(__file__).resolve().parent
ROOT = _HERE.parents[1]


@dataclass(frozen=True)
class Asked:
    """What was asked for.

    Attributes:
        cpu_nodes: operators on the CPU provider, "stage: operator".
        memcpy_nodes: how many copies between host and device onnxruntime put into the graphs.
        step: counts of a decode step: launches, to_device, to_host, bytes_to_host, waits.
        ask: those of a question up to its first token.
        layers: of the decoder.
    """

    cpu_nodes: tuple[str, ...]
    memcpy_nodes: int
    step: dict[str, Any]
    ask: dict[str, Any]
    layers: int


class Environment:
    """One virtual environment with onnxruntime-gpu, and the stand-ins that it loads."""

    def __init__(self, folder: Path) -> None:
        """Builds them, unless they are there."""
        self.version = folder.name
        self._python = folder / "bin" / "python"
        self._libraries = folder / "standins"
        provider = next(folder.glob("lib/python*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so"))
        build(provider, self._libraries)

    def measure(self, bundle: Path) -> Asked:
        """Runs a bundle.

        Raises:
            RuntimeError: it does not run, with what it said.
        """
        with tempfile.TemporaryDirectory() as folder:
            environment = {
                **os.environ,
                "LD_LIBRARY_PATH": str(self._libraries),
                "GLIMPSE_CACHE": folder,
                "CUDA_HOME": folder,
            }
            command = [str(self._python), str(_HERE / "drive.py"), str(ROOT), str(bundle), folder]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            counts = json.loads(done.stdout.splitlines()[-1])
            graphs = [onnx.load(graph, load_external_data=False).graph for graph in Path(folder).glob("*.onnx")]
        copies = sum(node.op_type.startswith("Memcpy") for graph in graphs for node in graph.node)
        return Asked(tuple(_on_cpu(done.stderr)), copies, counts["step"], counts["ask"], counts["layers"])


def _on_cpu(said: str) -> list[str]:
    """Reads onnxruntime's report: a line with a provider, or with all nodes of the one provider, and nodes below."""
    found, stage, provider = [], "-", ""
    for line in said.splitlines():
        if line.startswith("graph "):
            stage, provider = line.split()[1], ""
        placed = re.search(r"(?:All nodes|Node\(s\)) placed on \[(\w+)\]", line)
        if placed:
            provider = placed[1]
        node = re.search(r"VerifyEachNodeIsAssignedToAnEp(?:Impl)?\]\s+(\w+) \(", line)
        if node and provider == "CPUExecutionProvider" and stage != "-":
            found.append(f"{stage}: {node[1]}")
    return found
