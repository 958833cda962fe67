"""What an export of a full-size model costs: memory, time and size of the bundle.

    python benchmarks/export/export_size.py [--model qwen2.5-vl-3b] [--precision int4] [--json] [-- OPTIONS]

Makes a checkpoint with ``make_checkpoint.py``, or takes the one in ``--checkpoint``, and exports it in a process of its
own with an empty cache. Peak memory is what the system accounts to that process when it ends, as ``/usr/bin/time``
does, mapped files included. Words behind ``--`` go to glimpse-export. POSIX only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# A child's account begins with the memory of the process that started it, so this one imports nothing large.
ROOT = Path(__file__).parents[2]
_EXPORT = (sys.executable, "-c", "from glimpse_export.cli.export import main; main()")
_KIB = 1 if sys.platform == "darwin" else 1024


def measure(checkpoint: Path, out: Path, words: Sequence[str], environment: dict[str, str]) -> dict[str, object]:
    """Exports, and returns what it cost beside what the plan said.

    Raises:
        RuntimeError: the export failed.
    """
    command = [*_EXPORT, "--model", checkpoint / "base", "--adapter", checkpoint / "adapter", *words]
    plan = subprocess.run([*command, "--dry-run", "--json"], env=environment, stdout=subprocess.PIPE, check=False)
    if plan.returncode:
        raise RuntimeError(f"glimpse-export --dry-run ended with status {plan.returncode}; see its message above")
    planned = json.loads(plan.stdout)
    load, start = os.getloadavg()[0], time.perf_counter()
    child = subprocess.Popen([*command, "--out", out], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"glimpse-export ended with status {child.returncode}; see its message above")
    return {
        "precision": planned["precision"],
        "peak_rss_bytes": usage.ru_maxrss * _KIB,
        "estimated_peak_bytes": planned["export"]["peak_bytes"],
        "seconds": round(seconds, 1),
        "estimated_seconds": round(planned["export"]["seconds"], 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "load_before": round(load, 1),
        "bundle_bytes": sum(path.stat().st_size for path in out.iterdir()),
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-vl-3b")
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--checkpoint", type=Path, help="folder with base/ and adapter/; made there when it is missing")
    parser.add_argument("--out", type=Path, help="keep the bundle in this folder, which must not be there yet")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("words", nargs="*", help="more words for glimpse-export")
    options = parser.parse_args()
    if options.out is not None and options.out.exists():
        parser.error(f"{options.out} is there already; nothing would be exported")
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = options.checkpoint or Path(scratch, "checkpoint")
        environment = {
            **os.environ,
            "GLIMPSE_CACHE": str(Path(scratch, "cache")),
            "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("runtime", "export", "models", "plugins")),
        }
        if not (checkpoint / "base").is_dir():
            make = [sys.executable, ROOT / "benchmarks" / "make_checkpoint.py", checkpoint, "--model", options.model]
            if subprocess.run(make, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
                sys.exit(1)
        words = ["--precision", options.precision, *options.words]
        try:
            found = measure(checkpoint, options.out or Path(scratch, "bundle"), words, environment)
        except RuntimeError as error:
            parser.exit(1, f"{parser.prog}: {error}\n")
    result = {"model": options.model, **found}
    print(json.dumps(result) if options.json else "\n".join(f"{name:<22}{value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
