"""Values that a fuzz has found: each is refused by its name, and no message does anything to a terminal."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.bundles import write_manifest

from glimpse_runtime import (
    BackendError,
    BundleFormatError,
    BundleNotFoundError,
    ImageError,
    InputError,
    PromptError,
    Pruning,
    PruningError,
    load,
)
from glimpse_runtime.backends.host import HostMemory
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.cli.terminal import shown
from glimpse_runtime.inputs.images import read_image
from glimpse_runtime.session.session import Session

FRAME = np.zeros((28, 28, 3), np.uint8)


def test_messages_hold_no_control_characters() -> None:
    assert str(BundleFormatError("unknown key \x1b[2J\x00\ud800\nnext")) == "unknown key \\x1b[2J\\x00\\xd800\nnext"
    assert str(BundleNotFoundError("no \x07")) == "no \\x07"


def test_a_trace_is_a_function() -> None:
    with pytest.raises(InputError, match="trace must be a function"):
        load(trace=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[0, []], ["", b"\xff"], [[1], [2, 3]]])
def test_ids_of_no_one_shape(pocket: Session, ids: Any) -> None:
    with pytest.raises(PromptError, match="one-dimensional sequence of integer token ids"):
        pocket.ask_ids([], ids)


@pytest.mark.parametrize("eos", [np.array(1), np.ones((1, 1), np.int64)])
def test_ids_that_end_are_a_list(pocket: Session, eos: Any) -> None:
    with pytest.raises(InputError, match="eos must be token ids"):
        pocket.ask_ids([], [1], eos=eos)


@pytest.mark.parametrize("turns", [None, 3, "ab", ["ab"], [("a",)], [("a", "b", "c")], [None], {"a": "b"}])
def test_turns_are_pairs(pocket: Session, turns: Any) -> None:
    with pocket.encode(FRAME) as scene, pytest.raises(PromptError, match="turns must be a list of"):
        scene.ask("Is there a star?", turns=turns)


@pytest.mark.parametrize("encoding", [np.ones(2), np.array(1), [], 3])
def test_an_encoding_is_a_name(pocket: Session, encoding: Any) -> None:
    with pytest.raises(ImageError, match="cannot use encoding"):
        pocket.ask(FRAME, "Is there a star?", encoding=encoding)


@pytest.mark.parametrize("anchors", [np.array(1), np.array("tl"), 3, b"tl"])
def test_texts_are_several(anchors: Any) -> None:
    with pytest.raises(PruningError, match="anchors must be a tuple of non-empty texts"):
        Pruning(anchors=anchors)


@pytest.mark.parametrize("shape", [(1, 2, 1 << 40, 32), (1 << 20,) * 4])
def test_memory_that_there_is_not(shape: tuple[int, ...]) -> None:
    with pytest.raises(BackendError, match="no memory for float32 of shape"):
        HostMemory().allocate(shape, "float32")


@pytest.mark.parametrize(
    "shape", [[1, 2, "context", 32, "context"], ["context", 2, "context", 32], [1, "context", "context", 32], [1, 2]]
)
def test_the_form_of_a_kv_cache(tmp_path: Path, shape: list[int | str]) -> None:
    bundle = Path(shutil.copytree(packaged_bundle(), tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    past = next(each for each in manifest["graphs"]["ort"]["upper"]["inputs"] if each["name"].startswith("past."))
    past["shape"] = shape
    write_manifest(bundle, manifest)
    with pytest.raises(BundleFormatError, match="the values of graphs make no sense"):
        Bundle.open(bundle)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_tensor_that_is_listed_twice(tmp_path: Path, side: str) -> None:
    bundle = Path(shutil.copytree(packaged_bundle(), tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    tensors = manifest["graphs"]["ort"]["upper"][side]
    tensors.append(tensors[-1])
    write_manifest(bundle, manifest)
    with pytest.raises(BundleFormatError, match="the values of graphs make no sense"):
        Bundle.open(bundle)


def test_a_type_that_only_gpus_compute_with() -> None:
    pytest.importorskip("ml_dtypes")  # from then on numpy has it
    with pytest.raises(BackendError, match="a KV cache of bfloat16 needs a GPU"):
        HostMemory().allocate((1, 2), "bfloat16")


@pytest.mark.parametrize("name", ["\0", "a\0/b", "\ud800"])
def test_a_name_that_no_folder_can_have(name: str) -> None:
    with pytest.raises(BundleNotFoundError):
        load(name)


def test_a_keep_mask_of_uneven_rows(pocket: Session) -> None:
    with pytest.raises(PruningError, match="keep mask 0 is no rectangular array"):
        pocket.ask(FRAME, "what", pruning=Pruning(keep_masks=[[[1, 2], [1]]]))  # type: ignore[list-item]


def test_what_a_callers_object_raises_is_told_by_name() -> None:
    class Odd:
        @property
        def __array_interface__(self) -> object:
            raise KeyError("x")

    class Empty:
        def __dlpack_device__(self) -> tuple[int, ...]:
            return ()

    for source in (Odd(), Empty()):
        with pytest.raises(ImageError, match=f"cannot read the memory of a {type(source).__name__}"):
            read_image(source)  # type: ignore[arg-type]


def test_a_folder_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a folder, not an image file; name a file in it"


@pytest.mark.parametrize("encoding", [[], "", ["rgb8"], 8])
def test_an_encoding_is_a_word(encoding: object) -> None:
    with pytest.raises(ImageError, match="cannot use encoding"):
        read_image(FRAME, encoding)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["9" * 5000, "178956971", "-1", "1e6", ""])
def test_a_limit_that_cannot_be_followed(monkeypatch: pytest.MonkeyPatch, value: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (28, 28)).save(path)
    monkeypatch.setenv("GLIMPSE_MAX_IMAGE_PIXELS", value)
    with pytest.raises(ImageError, match="GLIMPSE_MAX_IMAGE_PIXELS must be a number of pixels up to 178956970"):
        read_image(path)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("no http://me:s3cret@host/a.png", "no http://***@host/a.png"),
        ("http:/me:s3cret@host/a is no bundle", "http:/***@host/a is no bundle"),
        ("rtsp://me@camera/1 and https://t0ken@host", "rtsp://***@camera/1 and https://***@host"),
        ("owner/name@main, C:/a@b, me@host", "owner/name@main, C:/a@b, me@host"),
    ],
)
def test_no_message_tells_a_password(message: str, expected: str) -> None:
    assert str(BundleFormatError(message)) == expected
    assert shown(message) == expected


def test_an_address_of_an_image_is_cut_behind_its_password() -> None:
    with pytest.raises(ImageError, match=r"'http://\*\*\*@camera/frame.jpg' is a http: address"):
        read_image(f"http://{'me' * 30}:secret@camera/frame.jpg")
