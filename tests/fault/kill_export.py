"""Kills exports at random moments and looks whether what comes out in the end is what an undisturbed one writes.

    python tests/fault/kill_export.py --kills 50 --json

Half of the kills come after a random time, half just before a random change of the file system, so that the short
steps at the end are met too. Every second round replaces another bundle: after each kill there is that one, the new
one, or the moment between the two, which the next run undoes.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("runtime", "export", "models", "plugins", "tests")]

from support.checkpoints import write_model

from glimpse_export import ExportOptions, export
from glimpse_export.weights import file as weights
from glimpse_export.weights.precision import Precision
from glimpse_runtime.files.hashing import sha256_of

CHANGES = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
KILLS_IN_A_ROUND = 5
TEXT = {"hidden_size": 768, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 8}
TEXT |= {"intermediate_size": 2048, "rope_scaling": {"type": "mrope", "mrope_section": [16, 16, 16]}}
VISION = {"hidden_size": 384, "num_heads": 4, "intermediate_size": 1000, "depth": 4}

Hashes = dict[str, str]


@dataclass
class Report:
    """What happened; the stages finished and the journals written are those found after kills, added up."""

    kills: int = 0
    attempts: int = 0
    completed: int = 0
    identical: bool = True
    undisturbed_seconds: float = 0.0
    seconds: float = 0.0
    stages_finished: int = 0
    journals: int = 0
    problems: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        self.identical = False
        self.problems.append(text)


class Victim:
    """One export that runs in a forked process."""

    def __init__(self, options: ExportOptions, out: Path) -> None:
        self.options, self.out = options, out

    def run(self, seconds: float | None = None, step: int | None = None) -> int:
        """Runs it, kills it after some time or before a step; returns what waitpid says."""
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            exit_after(lambda: self._killable(step))
        status = None
        while status is None:
            done, found = os.waitpid(pid, os.WNOHANG)
            if done:
                status = found
            elif seconds is not None and time.monotonic() - started > seconds:
                os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]
            else:
                time.sleep(0.002)
        return status

    def steps(self) -> int:
        """Runs it undisturbed and returns how often it changes the file system."""
        reader, writer = os.pipe()

        def counted() -> None:
            found = [0]

            def count() -> None:
                found[0] += 1

            self._export(count)
            os.write(writer, str(found[0]).encode())

        assert in_child(counted) == 0
        return int(os.read(reader, 100))

    def _killable(self, step: int | None) -> None:
        left = [step]

        def count() -> None:
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        self._export(count)

    def _export(self, count: Callable[[], None]) -> None:
        sys.addaudithook(lambda event, arguments: count() if event in CHANGES else None)
        export(self.options, self.out)


def in_child(work: Callable[[], None]) -> int:
    """Does something in a forked process: torch's threads must not be there when this process forks."""
    pid = os.fork()
    if pid == 0:
        exit_after(work)
    return os.waitpid(pid, 0)[1]


def exit_after(work: Callable[[], None]) -> NoReturn:
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def hashes(folder: Path) -> Hashes:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())} if folder.exists() else {}


def kill_often(folder: Path, kills: int, seed: int) -> Report:
    """Runs rounds of a few kills and a completion each."""
    weights._JOURNAL_EACH_BYTES = 1 << 20
    os.environ["GLIMPSE_CACHE"] = str(folder / "cache")
    rng, report, start = random.Random(seed), Report(), time.monotonic()
    model, out = folder / "model", folder / "out"
    assert in_child(lambda: write_model(model, text=TEXT, vision=VISION, shards=2, dtype="bfloat16")) == 0

    def victim(out: Path, precision: str, force: bool = False) -> Victim:
        chosen = Precision.choose(precision)
        base, adapter = str(model / "base"), str(model / "adapter")
        return Victim(ExportOptions(base, adapter, precision=chosen, tokenizer=False, force=force), out)

    assert victim(folder / "other", "int8").run() == 0
    steps = victim(folder / "warm", "int4").steps()
    before = time.monotonic()
    assert victim(folder / "wanted", "int4").run() == 0
    report.undisturbed_seconds = round(time.monotonic() - before, 2)
    other, wanted = hashes(folder / "other"), hashes(folder / "wanted")
    while report.kills < kills:
        replacing = report.completed % 2 == 1
        shutil.rmtree(out, ignore_errors=True)
        if replacing:
            shutil.copytree(folder / "other", out)
        export_now = victim(out, "int4", force=replacing)
        for _ in range(min(rng.randint(1, KILLS_IN_A_ROUND), kills - report.kills)):
            late = rng.uniform(0, report.undisturbed_seconds)
            by_step = rng.random() < 0.5
            status = export_now.run(step=rng.randrange(steps)) if by_step else export_now.run(seconds=late)
            report.attempts += 1
            if not os.WIFSIGNALED(status):
                if status:
                    report.problem("an interrupted export does not go on")
                break
            report.kills += 1
            _check_between(report, out, [other, wanted] if replacing else [{}, wanted])
        report.attempts += 1
        if export_now.run() != 0 or hashes(out) != wanted:
            report.problem("not the bytes of an undisturbed export")
        if work_of(out).exists():
            report.problem("work is left behind")
        report.completed += 1
    report.seconds = round(time.monotonic() - start, 1)
    return report


def _check_between(report: Report, out: Path, whole: list[Hashes]) -> None:
    """After a kill: one of the whole bundles at its place, or the old one set aside by the replacement."""
    work = work_of(out)
    report.stages_finished += len(list(work.glob("*/finished.json")))
    report.journals += len(list(work.glob("*/*.journal")))
    found = hashes(out) or hashes(work / "old")
    if found not in whole:
        report.problem(f"a bundle that is not whole: {sorted(found)}")


def work_of(out: Path) -> Path:
    return out.parent / f".{out.name}.work"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the report as the last line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = kill_often(Path(folder), arguments.kills, arguments.seed)
    if arguments.json:
        print(json.dumps(asdict(report)))
    else:
        print(f"{report.kills} kills, {report.completed} bundles,", "identical" if report.identical else "DIFFERENT")
    return 0 if report.identical else 1


if __name__ == "__main__":
    sys.exit(main())
