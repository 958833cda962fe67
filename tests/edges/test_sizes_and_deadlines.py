"""Sizes, times and memory are bounded: what is large is measured before it is unpacked, and nothing waits for ever."""

import io
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.places import ROOT

from glimpse_runtime import BundleError, ImageError, InputError
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.errors import BundleDamagedError, BundleFormatError
from glimpse_runtime.inputs.images import read_image
from glimpse_runtime.pruning.weights import load_weights
from glimpse_runtime.session.session import Session

QUESTION = "Is there a star?"
ROOTS = os.pathsep.join(str(ROOT / root) for root in ("runtime", "models", "plugins"))
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


def bomb(kind: str, side: int = 13300) -> bytes:
    """A small file of a very large picture."""
    file = io.BytesIO()
    Image.new("1" if kind == "PNG" else "L", (side, side)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_bomb_is_refused_before_it_is_decoded(pocket: Session, kind: str) -> None:
    data = bomb(kind)
    before, start_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ImageError, match=r"13300 x 13300 pixels, more than the limit.*GLIMPSE_MAX_IMAGE_PIXELS"):
        pocket.ask(data, QUESTION, timeout=0.5)
    assert time.monotonic() - start_s < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


def test_the_limit_of_pixels_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    Image.new("RGB", (40, 30)).save(data, "PNG")
    monkeypatch.setenv("GLIMPSE_MAX_IMAGE_PIXELS", "1199")
    with pytest.raises(ImageError, match="40 x 30 pixels, more than the limit of 1199"):
        read_image(data.getvalue())
    monkeypatch.setenv("GLIMPSE_MAX_IMAGE_PIXELS", "1200")
    assert read_image(data.getvalue()).size == (40, 30)
    for wrong in ("", "many", "-1", "0", "1e6", "١٢"):
        monkeypatch.setenv("GLIMPSE_MAX_IMAGE_PIXELS", wrong)
        with pytest.raises(ImageError, match="must be a number of pixels"):
            read_image(data.getvalue())


@needs_pipes
def test_a_picture_that_never_comes_ends_with_the_deadline(pocket: Session, tmp_path: Path) -> None:
    pipe = tmp_path / "camera.jpg"
    os.mkfifo(pipe)
    start_s = time.monotonic()
    answer = pocket.ask(pipe, QUESTION, timeout=0.3)
    assert (answer.text, answer.finish_reason) == ("", "deadline")
    assert "before its images were read" in str(answer.pruning.reason)
    assert 0.25 < time.monotonic() - start_s < 1
    with pytest.raises(Exception, match="the scene was not finished: deadline"):
        pocket.encode(pipe, timeout=0.2)
    threading.Timer(0.2, pocket.cancel).start()
    answer = pocket.ask(pipe, QUESTION, timeout=20)
    assert (answer.text, answer.finish_reason) == ("", "cancelled")
    # What still waits for the pipe is let go.
    handle = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    os.close(handle)


def test_mistakes_are_told_even_when_there_is_no_time(pocket: Session) -> None:
    with pytest.raises(ImageError, match="is not a JPEG"):
        pocket.ask(b"no image", QUESTION, timeout=0)
    with pytest.raises(InputError, match="the question must be a str"):
        pocket.ask(np.zeros((28, 28, 3), np.uint8), 5, timeout=0)  # type: ignore[arg-type]


def test_a_question_of_megabytes_is_refused_by_its_length(pocket: Session) -> None:
    start_s = time.monotonic()
    with pytest.raises(InputError, match=r"3600000 characters.*shorten"):
        pocket.ask([], "a b " * 900_000, timeout=0.5)
    assert time.monotonic() - start_s < 1


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packaged bundle that a test may change."""
    return Path(shutil.copytree(packaged_bundle(), tmp_path / "bundle"))


@needs_pipes
@pytest.mark.parametrize("name", ["manifest.json", "text.data", "certificate.json"])
def test_a_bundle_consists_of_regular_files(copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(BundleError, match="no regular file"):
        Bundle.open(copy)


def test_an_endless_manifest_is_not_read(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="no regular file"):
        Bundle.open(copy)


def test_a_manifest_of_many_megabytes_is_not_parsed(copy: Path) -> None:
    with (copy / "manifest.json").open("ab") as file:
        file.truncate(40 << 20)
    with pytest.raises(BundleError, match="larger than 32 MiB"):
        Bundle.open(copy)


@pytest.mark.slow
def test_trained_weights_are_measured_before_they_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "pruner.covipal.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(1025):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 4 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleFormatError, match="unpacks to"):
        load_weights(path, {}, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_a_manifest_that_was_altered_is_refused(copy: Path) -> None:
    path = copy / "manifest.json"
    text = path.read_text()
    for old, new in (('"threshold": 0.05', '"threshold": 0.06'), ('"rope_theta": 10000.0', '"rope_theta": 10001.0')):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(BundleDamagedError, match="does not have the hash that it states"):
            Bundle.open(copy)
    path.write_text(text.replace("\n", "\r\n"))  # another layout of the same content is no alteration
    Bundle.open(copy)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_says_that_the_session_is_its_parents() -> None:
    code = """
import os, sys
import numpy as np
import glimpse_runtime
frame = np.zeros((56, 56, 3), np.uint8)
vlm = glimpse_runtime.load()
before = vlm.ask(frame, "Is there a star?").text
child = os.fork()
if not child:
    try:
        vlm.ask(frame, "Is there a star?")
    except glimpse_runtime.SessionError as error:
        print(error, flush=True)
    vlm.close()
    with glimpse_runtime.load(threads=1) as own:
        assert own.ask(frame, "Is there a star?").text == before
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert vlm.ask(frame, "Is there a star?").text == before
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": ROOTS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "loaded before the process was forked; load the bundle in the child" in done.stdout


def test_a_picture_is_measured_in_whatever_form(pocket: Session) -> None:
    """A view of one byte may have more pixels than there is memory for, and Pillow opens files without reading them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Image.open(io.BytesIO(bomb("PNG", 9000))) as lazy:
        for source in (
            np.broadcast_to(np.uint8(3), (10**6, 10**6)),
            np.broadcast_to(np.uint8(3), (8000, 8000, 3)),
            lazy,
        ):
            with pytest.raises(ImageError, match="pixels, more than the limit of 50000000; shrink it"):
                pocket.ask(source, QUESTION)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@needs_pipes
def test_the_command_comes_back_by_its_deadline(tmp_path: Path) -> None:
    pipe = tmp_path / "camera.jpg"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", "from glimpse_runtime.cli.run import main; main()", str(pipe), QUESTION]
    done = subprocess.run(
        [*command, "--timeout", "0.2", "--overlay", str(tmp_path / "kept.png")],
        env={**os.environ, "PYTHONPATH": ROOTS},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
    assert "kept.png is not written: the request ended before its images were read" in done.stderr
