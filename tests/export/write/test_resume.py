"""Exports that are interrupted, repeated, or started twice: nothing is lost, nothing is built in vain."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.interrupted import interrupt_at_the_end
from support.slow import few, slow

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from support.bundles import STAGES, begun_work, options, work_of
from support.commands import assert_one_clear_line
from support.places import ROOT

from glimpse_export import OutputError
from glimpse_export.exporter import Outcome, carry_out
from glimpse_export.graphs.dialects import DIALECTS
from glimpse_export.weights.file import WeightFile
from glimpse_export.weights.precision import Precision
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.files.hashing import sha256_of


def run(model: Path, out: Path, **changes: Any) -> Outcome:
    return carry_out(options(model, **changes), out)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


@contextmanager
def failing_write(after_bytes: int, error: BaseException) -> Iterator[None]:
    """Lets the writing of weights fail after so many bytes."""
    left, write = after_bytes, WeightFile._write

    def limited(file: WeightFile, data: memoryview) -> None:
        nonlocal left
        left -= len(data)
        if left < 0:
            write(file, data[: len(data) // 2])
            raise error
        write(file, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightFile, "_write", limited)
        yield


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
@pytest.mark.parametrize("share", few([0.02, 0.3, 0.6, 0.97], [0.3, 0.97]))
def test_an_interrupted_export_goes_on(
    model: Path, out: Path, golden_bundle: Path, error: BaseException, share: float
) -> None:
    total = sum(path.stat().st_size for path in golden_bundle.iterdir() if path.suffix in (".data", ".bin"))
    with failing_write(int(total * share), error), pytest.raises((OutputError, KeyboardInterrupt)):
        run(model, out)
    assert not out.exists()
    written: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        append = WeightFile._append

        def noticing(file: WeightFile, name: str, tensor: Any, parts: Any) -> None:
            append(file, name, tensor, lambda: written.append(name) or parts())

        patch.setattr(WeightFile, "_append", noticing)
        outcome = run(model, out)
    assert hashes(out) == hashes(golden_bundle)
    assert sorted(outcome.built + outcome.taken_over) == sorted(STAGES)
    assert "model.layers.5.mlp.up_proj.weight" in written
    if share > 0.9:
        assert "vision" in outcome.taken_over
        assert "model.layers.0.mlp.up_proj.weight" not in written
    assert not work_of(out).exists()


def test_a_full_disk_is_one_clear_line(model: Path, out: Path) -> None:
    with failing_write(100_000, FULL), pytest.raises(OutputError) as caught:
        run(model, out)
    message = str(caught.value)
    assert str(out) in message
    assert "MB are missing" in message
    assert "run the same command again" in message
    assert "\n" not in message


@pytest.mark.slow
def test_a_file_that_must_not_grow_is_met_like_a_full_disk(model: Path, out: Path, golden_bundle: Path) -> None:
    words = ["--model", model / "base", "--adapter", model / "adapter", "--no-tokenizer", "--out", out]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY)); "
    done = subprocess.run(
        [sys.executable, "-c", f"{limit}from glimpse_export.cli.export import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("runtime", "export", "models"))},
        check=False,
    )
    assert_one_clear_line(done, "File too large", "run the same command again")
    run(model, out)
    assert hashes(out) == hashes(golden_bundle)


def test_what_cannot_fit_is_refused_before_anything_is_written(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OutputError, match=r"its disk lacks 3\d MB; free it.*--precision"):
        run(model, out)
    assert not work_of(out).exists()


def test_work_of_other_options_makes_room(model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at_the_end(model, out)

    def usage(place: Path) -> Any:
        stale = len(list(work_of(out).glob("vision-*")))
        return shutil._ntuple_diskusage(10**9, 10**9, 1000 if stale else 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    outcome = run(model, out, precision=Precision.choose(None, vision="int8"))
    assert outcome.built == ("vision",)


def test_only_the_stage_that_an_option_changes_is_built_again(model: Path, out: Path, tmp_path: Path) -> None:
    interrupt_at_the_end(model, out)
    mixed = Precision.choose(None, vision="int8")
    outcome = run(model, out, precision=mixed, max_context=2048)
    assert outcome.built == ("vision",)
    assert outcome.taken_over == ("embedding", "score", "text")
    assert not work_of(out).exists()
    undisturbed = run(model, tmp_path / "other", precision=mixed, max_context=2048).folder
    assert hashes(out) == hashes(undisturbed)


def test_a_cache_of_fixed_length_is_a_part_of_the_text_stage_alone(model: Path, out: Path) -> None:
    interrupt_at_the_end(model, out, dialects=DIALECTS)
    outcome = run(model, out, dialects=DIALECTS, max_context=2048)
    assert outcome.built == ("text",)
    assert Bundle.open(out).manifest.graphs["plain"]["lower"].outputs[0].shape[2] == 2048


@slow
def test_an_interrupted_export_in_all_dialects_goes_on(model: Path, out: Path, tmp_path: Path) -> None:
    """Also between integers and their scales, of which two forms lie in one file."""
    several = {"dialects": DIALECTS, "precision": Precision.choose("int4"), "head_parts": 2}
    undisturbed = hashes(run(model, tmp_path / "other", **several).folder)
    for left in range(0, 900_000, 90_000):
        with suppress(KeyboardInterrupt, OutputError), failing_write(left, KeyboardInterrupt()):
            run(model, out, **several)
    assert hashes(run(model, out, **several).folder) == undisturbed


def test_a_finished_stage_that_was_damaged_is_built_again(model: Path, out: Path, golden_bundle: Path) -> None:
    interrupt_at_the_end(model, out)
    data = next(work_of(out).glob("vision-*/vision.data"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    next(work_of(out).glob("score-*/finished.json")).write_text("{")
    assert run(model, out).built == ("vision", "score")
    assert hashes(out) == hashes(golden_bundle)


@pytest.mark.parametrize("part", ["base/model.safetensors", "adapter/new_modules_gp.pt"])
def test_other_sources_are_not_mixed_with_old_work(model: Path, out: Path, tmp_path: Path, part: str) -> None:
    import torch
    from safetensors.numpy import load_file, save_file

    interrupt_at_the_end(model, out)
    if part.startswith("base"):
        tensors = load_file(model / part)
        tensors["visual.merger.mlp.0.weight"] = tensors["visual.merger.mlp.0.weight"][::-1].copy()
        save_file(tensors, model / part)
    else:
        modules = torch.load(model / part, weights_only=True)
        modules["attn_fuser"]["attn_in_proj.bias"] = modules["attn_fuser"]["attn_in_proj.bias"] + 1
        torch.save(modules, model / part)
    outcome = run(model, out)
    assert outcome.built == (STAGES if part.startswith("base") else ("score", "text"))
    assert hashes(out) == hashes(run(model, tmp_path / "again").folder)


def test_an_unchanged_export_is_done_already(model: Path, out: Path) -> None:
    assert run(model, out).built == STAGES
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    start = time.monotonic()
    outcome = run(model, out)
    assert outcome.unchanged
    assert time.monotonic() - start < 2
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    moved = model.rename(model.with_name("moved"))
    assert run(moved, out).unchanged
    with pytest.raises(OutputError, match="of another model, options or version; replace it with --force"):
        run(moved, out, precision=Precision.choose("fp16"))
    (out / "score.data").write_bytes(b"")
    with pytest.raises(OutputError, match=r"is a damaged bundle .*score\.data.*--force"):
        run(moved, out)
    assert run(moved, out, force=True).built == STAGES


def test_what_was_hashed_when_it_was_written_is_not_hashed_again(
    model: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("glimpse_runtime.files.hashing.REMEMBERED_FROM_BYTES", 0)
    run(model, out)
    hashed: list[Path] = []
    monkeypatch.setattr("glimpse_runtime.files.hashing.sha256_of", hashed.append)
    Bundle.open(out)
    assert hashed == []


def test_the_stamps_speak_of_no_place(model: Path, out: Path) -> None:
    run(model, out)
    assert set(Bundle.open(out).manifest.stamps) == set(STAGES)
    assert str(model.parent) not in (out / "manifest.json").read_text()


def test_force_begins_from_nothing_and_goes_on_after_an_interruption(model: Path, out: Path) -> None:
    interrupt_at_the_end(model, out)
    with failing_write(300_000, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        run(model, out, force=True)
    outcome = run(model, out, force=True)
    assert "text" in outcome.built
    assert "embedding" in outcome.taken_over
    interrupt_at_the_end(model, out, force=True)
    shutil.rmtree(out)
    interrupt_at_the_end(model, out)
    (work_of(out) / "forced").unlink()
    assert run(model, out, force=True).built == STAGES


def test_an_interrupted_replacement_is_undone(model: Path, out: Path, golden_bundle: Path) -> None:
    """Between the two renames only the old bundle is whole, and it is set aside."""
    run(model, out)
    work = begun_work(out)
    (work / "bundle").mkdir()
    out.rename(work / "old")
    assert run(model, out).unchanged
    assert hashes(out) == hashes(golden_bundle)
    assert not work.exists()
    (begun_work(out) / "bundle").mkdir()
    shutil.copytree(out, work / "old")
    with pytest.raises(OutputError, match=r"lies in .*old: move it away"):
        run(model, out, force=True)
    assert hashes(work / "old") == hashes(golden_bundle)


def test_what_is_not_an_exports_stays_in_the_work_folder(model: Path, out: Path) -> None:
    begun_work(out)
    (work_of(out) / "thesis.txt").write_text("important")
    run(model, out)
    assert [path.name for path in work_of(out).iterdir()] == ["thesis.txt"]


def test_without_links_files_are_copied(
    model: Path, out: Path, golden_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*unused: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    run(model, out)
    assert hashes(out) == hashes(golden_bundle)


HOLD = """
import sys, time
from pathlib import Path
from glimpse_export.write.work import WorkFolder
with WorkFolder.opened(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_export_into_the_same_place_is_refused(model: Path, out: Path, golden_bundle: Path) -> None:
    path = os.pathsep.join(str(ROOT / part) for part in ("runtime", "export", "models"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=f"another export into {out} is running"):
            run(model, out)
        holder.send_signal(signal.SIGKILL)
    run(model, out)
    assert hashes(out) == hashes(golden_bundle)


@slow
def test_killed_exports_end_as_undisturbed_ones() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "fault" / "kill_export.py"), "--kills", "5", "--json"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["identical"]
    assert report["kills"] == 5
