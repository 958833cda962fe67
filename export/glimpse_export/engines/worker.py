"""Builds one engine in a process of its own, and the other end of that.

TensorRT ends the process when something is badly wrong, and the system does when memory runs out. Neither shall end
glimpse-export without a word; and what a build has taken is given back before the next one starts.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from glimpse_export.engines.build.job import Job
from glimpse_export.errors import BuildError

_TAIL_LINES = 5
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def build_apart(job: Job) -> None:
    """Builds an engine into the cache, in another process.

    Raises:
        BuildError: it cannot be built; also when the process died.
    """
    with tempfile.TemporaryDirectory(prefix="glimpse-build-") as folder:
        answer, output = Path(folder) / "answer.json", Path(folder) / "output.txt"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(answer)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=folder,  # -m looks for modules in the current folder first, and that may be anybody's
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            try:
                process.communicate(job.to_json().encode())
            except BaseException:
                process.kill()
                process.wait()
                raise
        said = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else None
        if said is None:
            raise BuildError(_death(job, process.returncode, output.read_text(encoding="utf-8", errors="replace")))
        if said["error"] is not None:
            raise BuildError(said["error"])


def _death(job: Job, code: int, output: str) -> str:
    reason = f"exit status {code}"
    if code < 0:
        reason = f"signal {signal.Signals(-code).name}"
    if code == -9:
        reason += ", probably because memory ran out; export with a smaller --precision such as int4 or a smaller "
        reason += "--max-context, add swap, or close other programs"
    tail = "".join(f"\n  {line}" for line in output.strip().splitlines()[-_TAIL_LINES:])
    return f"{job.key.stage}: the process that builds the engine died ({reason}){':' if tail else ''}{tail}"


def _end_with_parent() -> None:
    """A killed glimpse-export must not leave a build behind that takes memory from the next one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Reads a job from standard input and builds it; what went wrong goes into the file that is named."""
    from glimpse_export.engines.build.build import build_engine
    from glimpse_runtime.engines.flavours import installed
    from glimpse_runtime.errors import GlimpseError

    error = None
    _end_with_parent()
    try:
        job = Job.from_json(sys.stdin.read())
        build_engine(installed(job.target), job)
    except GlimpseError as failure:
        error = str(failure)
    except Exception as failure:
        import traceback

        traceback.print_exc()
        error = f"{type(failure).__name__}: {failure} (a bug while an engine was built: please report it)"
    Path(sys.argv[1]).write_text(json.dumps({"error": error}), encoding="utf-8")


if __name__ == "__main__":
    main()
