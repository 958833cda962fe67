"""What pip would install for every Python and combination of extras; nothing is installed.

    python tests/house/install_matrix.py [--python 3.10 ...] [--json]

Each row is resolved by uv for Linux. It must have a solution, hold that one of the two packages of onnxruntime which
its extras ask for and never both, whose files overwrite each other, and cuDNN for one version of CUDA alone.

Exit status: 0, 1 when a row is wrong. Needs a package index and uv (extra ``dev``).
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
AT_ONCE = 6
X86, ARM = "x86_64-manylinux_2_28", "aarch64-manylinux_2_28"
CPU, GPU, NEITHER = "onnxruntime", "onnxruntime-gpu", ""
# TensorRT itself is not resolved: its package fetches what it needs from another index while it is built.
ROWS = (
    (X86, "cpu", CPU),
    (X86, "gpu", GPU),
    (X86, "cpu,export", CPU),
    (X86, "gpu,export", GPU),
    (X86, "export", NEITHER),
    (X86, "gpu,export,hub", GPU),
    (X86, "cpu,optimum", CPU),
    (X86, "engines,cuda", NEITHER),
    (X86, "rtx", NEITHER),
    (X86, "cpu,rtx,export", CPU),
    (ARM, "cpu", CPU),
    (ARM, "engines", NEITHER),
)


@dataclass(frozen=True)
class Row:
    """One installation.

    Attributes:
        onnxruntime: the packages of it, with versions.
        cuda: those of NVIDIA that name what they are for.
        problem: empty where all is right.
    """

    python: str
    platform: str
    extras: str
    onnxruntime: tuple[str, ...]
    cuda: tuple[str, ...]
    problem: str


def resolve(python: str, platform: str, extras: str, expected: str) -> Row:
    """Works out one row."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python]
    command += ["--python-platform", platform, "-"]
    line = f"glimpse-edge[{extras}] @ {ROOT.as_uri()}"
    done = subprocess.run([sys.executable, "-m", *command], input=line, capture_output=True, text=True, check=False)
    if done.returncode:
        return Row(python, platform, extras, (), (), done.stderr.strip())
    found = dict(line.split(" ")[0].split("==") for line in done.stdout.splitlines() if "==" in line)
    runtimes = tuple(name for name in found if name in (CPU, GPU))
    cudnn = tuple(name for name in found if name.startswith("nvidia-cudnn"))
    problem = ""
    if runtimes != ((expected,) if expected else ()):
        problem = f"has {' and '.join(runtimes) or 'no onnxruntime'}, and should have {expected or 'none'}"
    elif len(cudnn) > 1:
        problem = f"has {' and '.join(cudnn)}, which have the same files"
    elif expected == GPU and not cudnn:
        problem = "has no cuDNN"
    shown = tuple(f"{name} {found[name]}" for name in (*cudnn, *(name for name in found if "nvrtc" in name)))
    return Row(python, platform, extras, tuple(f"{name} {found[name]}" for name in runtimes), shown, problem)


def main() -> int:
    """Prints a line for each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="may be given several times")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    wanted = [(python, *row) for python in asked.python or PYTHONS for row in ROWS]
    with ThreadPoolExecutor(AT_ONCE) as pool:  # uv waits for the network most of the time
        rows = list(pool.map(lambda words: resolve(*words), wanted))
    if asked.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            what = f"FAIL {row.problem}" if row.problem else ", ".join((*row.onnxruntime, *row.cuda)) or "resolves"
            print(f"{row.python}  {row.platform.partition('-')[0]:8}  [{row.extras}]  {what}", flush=True)
        print(f"{sum(not row.problem for row in rows)} right, {sum(bool(row.problem) for row in rows)} wrong")
    return 1 if any(row.problem for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
