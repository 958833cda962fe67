"""What is absent or unusual is never read as valid: no answer about nothing."""

import dataclasses
import io
import math
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from glimpse_runtime import (
    Frame,
    GlimpseError,
    ImageError,
    InputError,
    LatestFrame,
    PromptError,
    Pruning,
    PruningError,
    Sampling,
)
from glimpse_runtime import load as load_bundle
from glimpse_runtime.adapters.raw import raw_image
from glimpse_runtime.cli.run import run
from glimpse_runtime.inputs.images import read_image
from glimpse_runtime.inspection import inspect
from glimpse_runtime.pruners import find
from glimpse_runtime.session.session import Session

QUESTION = "Is there a star?"
FRAME = np.zeros((56, 56, 3), np.uint8)


def test_a_failed_camera_read_is_no_question_without_an_image(pocket: Session) -> None:
    for absent in (None, [None], [FRAME, None]):
        with pytest.raises(ImageError, match=r"is None; has a camera read failed.*empty list"):
            pocket.ask(absent, QUESTION)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="no image"):
        LatestFrame().put(None)  # type: ignore[arg-type]
    assert pocket.ask([], QUESTION).pruning.total == 0


ENDINGS = ("frame.tif", "frame.heic", "frame.gif", "a.png ", "http://host/b.jpg?x=1", "clip.mp4", "a.PPM")


@pytest.mark.parametrize(
    "words",
    [("a.png", "b.png"), ("frame_404.PNG",), ("a.png", "b.webp", "c.jpeg"), *((ending,) for ending in ENDINGS)],
)
def test_a_forgotten_question_is_a_usage_error(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(run, words)
    assert result.exit_code == 2
    assert f"{words[-1]!r} is an image; give a question after it" in result.output


def test_any_file_is_no_question(tmp_path: Path) -> None:
    note = tmp_path / "note"
    note.write_text("x")
    result = CliRunner().invoke(run, ["a.png", str(note)])
    assert result.exit_code == 2
    assert "is a file; give a question after it" in result.output


@pytest.mark.parametrize("word", ["/dev/video0", "./frame_12", "../x", "~/frames/", "rtsp://camera/1", "data:,x", "/"])
def test_a_place_is_no_question(word: str) -> None:
    result = CliRunner().invoke(run, ["a.png", word])
    assert result.exit_code == 2
    assert "give a question after it" in result.output


@pytest.mark.parametrize("option", ["bundle", "pruner", "pre", "overlay", "stop", "choices"])
def test_an_unset_variable_of_the_shell_is_no_default(option: str) -> None:
    result = CliRunner().invoke(run, ["a.png", QUESTION, f"--{option}", ""])
    assert result.exit_code == 2
    assert f"--{option} is empty" in result.output


def deep_pictures() -> list[Any]:
    values = (np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 4096).astype(np.uint16)
    grey = Image.fromarray(values)
    file = io.BytesIO()
    grey.save(file, "PNG")
    return [file.getvalue(), grey, grey.convert("I"), grey.convert("F"), values, values.astype(np.float32)]


@pytest.mark.parametrize("number", range(6))
def test_more_than_eight_bits_are_refused_in_whatever_form(number: int) -> None:
    with pytest.raises(ImageError, match=r"scale it to 8 bits.*astype\('uint8'\)"):
        read_image(deep_pictures()[number])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"min_keep": math.nan}, "min_keep must be a whole number"),
        ({"min_keep": 1.5}, "min_keep must be a whole number"),
        ({"min_keep": -1}, "min_keep must be at least 0"),
        ({"enabled": "no"}, "enabled must be True or False"),
        ({"enabled": 0}, "enabled must be True or False"),
        ({"threshold": "0.5"}, "threshold must be a number"),
        ({"threshold": math.nan}, r"threshold must lie in 0\.\.1"),
        ({"threshold": True}, "threshold must be a number"),
        ({"max_keep_ratio": -0.0001}, r"max_keep_ratio must lie in 0\.\.1"),
        ({"anchors": "tl"}, "anchors must be a tuple"),
        ({"anchors": ("tl", "")}, "anchors must be a tuple"),
        ({"anchors": 3}, "anchors must be a tuple"),
        ({"method": None}, "method must be the name"),
        ({"pre": 3, "pre_keep": 0.5}, "pre must be the name"),
        ({"keep_masks": 3}, "keep_masks must be a list"),
        ({"keep_masks": "yes"}, "keep_masks must be a list"),
        ({"seed": 1.0}, "seed must be a whole number"),
        ({"position_debias": "yes"}, "position_debias must be True or False"),
    ],
)
def test_pruning_options_of_a_wrong_kind(change: dict[str, Any], part: str) -> None:
    with pytest.raises(PruningError, match=part):
        Pruning(**change)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"temperature": math.inf}, "temperature must lie"),
        ({"temperature": None}, "temperature must be a number"),
        ({"top_k": 1.5}, "top_k must be a whole number"),
        ({"top_p": 0}, r"top_p must lie in 0\.\.1, above 0"),
        ({"min_p": 2}, "min_p must lie"),
        ({"repetition_penalty": 1e-46}, "repetition_penalty must lie"),
        ({"repetition_penalty": 1e300}, "repetition_penalty must lie"),
        ({"seed": "1"}, "seed must be a whole number"),
        ({"stop": "end"}, "stop must be a tuple"),
        ({"stop": 5}, "stop must be a tuple"),
        ({"stop": ("",)}, "stop must be a tuple"),
        ({"processors": (3,)}, "processors must be a tuple of functions"),
    ],
)
def test_sampling_options_of_a_wrong_kind(change: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        Sampling(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"scene_cache_bytes": -1},
        {"scene_cache_bytes": "1"},
        {"threads": "2"},
        {"threads": 0},
        {"max_pixels": "big"},
        {"max_pixels": 10.5},
        {"warmup": None},
        {"verify": "yes"},
        {"device": 3},
        {"bundle": 5},
    ],
)
def test_options_of_load_of_a_wrong_kind(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(change))} must "):
        load_bundle(**{"warmup": "off", **change})


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"timeout": "1"}, "timeout must be a number of seconds"),
        ({"timeout": math.nan}, "timeout must be a number of seconds"),
        ({"timeout": True}, "timeout must be a number of seconds"),
        ({"max_new_tokens": 1.0}, "max_new_tokens must be a whole number"),
        ({"system": 0}, "system message must be a str"),
        ({"pruning": 0.5}, "pruning must be a Pruning"),
        ({"sampling": {}}, "sampling must be a Sampling"),
        ({"encoding": 3}, "cannot use encoding"),
    ],
)
def test_options_of_a_question_of_a_wrong_kind(pocket: Session, change: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        pocket.ask(FRAME, QUESTION, **change)


@pytest.mark.parametrize("eos", ["abc", 1.5, [1.5], [-1], {"a": 1}])
def test_ids_that_end_an_answer(pocket: Session, eos: Any) -> None:
    with pytest.raises(InputError, match="eos"):
        pocket.ask_ids([], [1, 2, 3], eos=eos)


def test_one_id_that_ends_an_answer_counts_as_a_list(pocket: Session) -> None:
    several = pocket.ask_ids([], [1, 2, 3], eos=(5,), max_new_tokens=4)
    assert list(several) is not None
    one = pocket.ask_ids([], [1, 2, 3], eos=5, max_new_tokens=4)  # type: ignore[arg-type]
    assert one.text == several.text
    assert one.token_ids == several.token_ids


@pytest.mark.parametrize("stamp", ["x", math.nan, True])
def test_a_stamp_is_a_time(stamp: Any) -> None:
    with pytest.raises(InputError, match="stamp must be"):
        Frame(FRAME, stamp=stamp)


def test_numbers_of_numpy_are_welcome(pocket: Session) -> None:
    pruning = Pruning(threshold=np.float32(0.5), min_keep=np.int64(13), seed=np.uint8(3), enabled=np.bool_(True))  # type: ignore[arg-type]
    assert dataclasses.astuple(pruning)[:4] == (True, 0.5, None, 13)
    sampling = Sampling(temperature=np.float64(0.0), top_k=np.int32(4), seed=np.int64(8))  # type: ignore[arg-type]
    answer = pocket.ask(
        FRAME,
        QUESTION,
        pruning=pruning,
        sampling=sampling,
        timeout=np.float32(20),  # type: ignore[arg-type]
        max_new_tokens=np.int64(2),  # type: ignore[arg-type]
    )
    assert answer.text
    assert answer.pruning.kept >= 13
    with load_bundle(warmup="off", max_pixels=np.int64(200_704), threads=np.int8(1)) as vlm:  # type: ignore[arg-type]
        assert vlm.ask(FRAME, QUESTION).text


def test_a_matrix_is_an_array(pocket: Session) -> None:
    grey = np.arange(56 * 56, dtype=np.uint8).reshape(56, 56)
    expected = pocket.ask(grey, QUESTION).text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # numpy would rather have no matrices
        matrix = np.asmatrix(grey)
    assert pocket.ask(matrix, QUESTION).text == expected


@pytest.mark.parametrize(
    ("process", "part"),
    [
        (lambda tokens, logits: logits * np.nan, "NaN or infinite"),
        (lambda tokens, logits: np.full_like(logits, -np.inf), "forbade every token"),
        (lambda tokens, logits: logits[:5], "must return"),
        (lambda tokens, logits: None, "must return"),
        (lambda tokens, logits: logits.astype(np.int64), "must return"),
    ],
)
def test_what_a_processor_gives_is_looked_at(pocket: Session, process: Callable[..., Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        pocket.ask(FRAME, QUESTION, sampling=Sampling(processors=(process,)))


def test_keep_masks_hold_true_and_false(pocket: Session) -> None:
    grid = pocket.ask(FRAME, QUESTION).pruning.keep_masks[0].shape
    for mask in (np.full(grid, 0.5), np.full(grid, 2), np.full(grid, "x")):
        with pytest.raises(GlimpseError, match="must hold True and False"):
            pocket.ask(FRAME, QUESTION, pruning=Pruning(keep_masks=[mask]))
    kept = pocket.ask(FRAME, QUESTION, pruning=Pruning(keep_masks=[np.ones(grid, np.uint8)])).pruning.kept
    assert kept == grid[0] * grid[1]


@pytest.mark.parametrize("question", ["", " \n\t", "\u3000"])
def test_an_empty_question_is_a_forgotten_one(pocket: Session, question: str) -> None:
    for images in (FRAME, []):
        with pytest.raises(PromptError, match="the question is empty; is a variable not set"):
            pocket.ask(images, question)  # type: ignore[arg-type]
    result = CliRunner().invoke(run, ["a.png", question])
    assert result.exit_code == 2
    assert "the question is empty; is a variable of the shell not set?" in result.output


@pytest.mark.parametrize("kind", [5, 0.0, None, [], b"pocket", ""])
def test_a_bundle_is_named_by_text(kind: Any) -> None:
    if kind is not None:
        with pytest.raises(InputError, match="bundle must be a folder or a hub id"):
            inspect(kind)
    with pytest.raises(InputError, match="verify must be True or False"):
        inspect(None, verify=kind)
    with pytest.raises(PruningError, match=r"a pruning method has a name|unknown pruning method"):
        find(kind)


@pytest.mark.parametrize("pruning", [0, False, "", {}, [], np.array([1, 2])])
def test_what_counts_as_false_is_no_absent_option(pocket: Session, pruning: Any) -> None:
    with pytest.raises(InputError, match="pruning must be a Pruning"):
        pocket.encode(FRAME, pruning=pruning)
    with pocket.encode(FRAME) as scene, pytest.raises(InputError, match="pruning must be a Pruning"):
        scene.ask(QUESTION, pruning=pruning)


@pytest.mark.parametrize("timeout", [math.nan, -1, "1", True, [1]])
def test_a_mailbox_waits_for_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(InputError, match="timeout must be a number of seconds"):
        LatestFrame().get(timeout)


def test_a_mailbox_waits_however_long() -> None:
    for timeout in (None, math.inf, 1e300):
        box = LatestFrame()
        threading.Timer(0.02, box.close).start()
        assert box.get(timeout) is None


def test_a_keep_mask_is_a_list_of_arrays() -> None:
    with pytest.raises(PruningError, match="keep_masks must be a list"):
        Pruning(keep_masks=np.array(True))


def test_what_a_callers_class_raises_is_no_traceback(pocket: Session) -> None:
    class Odd:
        """Fails at whatever it is asked."""

        def __getattr__(self, name: str) -> Any:
            raise KeyError(name)

        def __iter__(self) -> Any:
            raise KeyError("iter")

        def __fspath__(self) -> str:
            raise KeyError("path")

    class Bytes:
        def __fspath__(self) -> bytes:
            return b"a.png"

    for wrong in (Odd(), Bytes()):
        with pytest.raises(ImageError, match="as a path"):
            read_image(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="stop must be"):
        Sampling(stop=Odd())  # type: ignore[arg-type]
    with pytest.raises(PruningError, match="anchors must be"):
        Pruning(anchors=Odd())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="token ids"):
        pocket.ask_ids([], Odd())  # type: ignore[arg-type]
    with pytest.raises(PruningError, match="keep mask 0"):
        pocket.ask(FRAME, QUESTION, pruning=Pruning(keep_masks=[Odd()]))  # type: ignore[list-item]


@pytest.mark.parametrize("step", [1, -1, 2])
def test_bytes_of_a_view_are_those_that_it_shows(step: int) -> None:
    flat = np.arange(4 * 5 * 3 * 2, dtype=np.uint8)[::step]
    expected = flat[: 4 * 5 * 3].tobytes()
    assert raw_image(flat, 4, 5, "rgb8").tobytes() == expected


@pytest.mark.parametrize(
    "change",
    [
        {"height": "4"},
        {"height": 4.0},
        {"width": -1},
        {"width": None},
        {"step": -15},
        {"step": 1.5},
        {"encoding": []},
        {"encoding": None},
        {"data": "text"},
        {"data": None},
        {"data": [1, 2]},
        {"data": np.zeros((4, 15), np.uint8)},
    ],
)
def test_a_message_of_middleware_is_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        raw_image(**{"data": bytes(60), "height": 4, "width": 5, "encoding": "rgb8", **change})
