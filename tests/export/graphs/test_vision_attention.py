"""Attention that visual tokens receive in the vision encoder: an optional output, in every dialect."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from reference import Reference, Request, patches
from support.bundles import options
from support.checkpoints import IMAGE_RULES, make_case, write_model

from glimpse_export import UnsupportedError, export, plan
from glimpse_runtime import Pruning, PruningError, load
from glimpse_runtime.pruners import find
from glimpse_runtime.steps.vision import RECEIVED

SIZES = ((140, 112), (56, 28))


def folder_of(tmp_path: Path, **vision: Any) -> Path:
    return write_model(tmp_path / "model", vision={"fullatt_block_indexes": [1, 3], **vision})


@pytest.mark.parametrize("dialect", ["ort", "opset24", "plain"])
@pytest.mark.parametrize("full", [[1, 3], [2]])
def test_received_attention_equals_the_reference(dialect: str, full: list[int], tmp_path: Path) -> None:
    folder = folder_of(tmp_path, fullatt_block_indexes=full)
    out = export(options(folder, dialects=(dialect,), vision_attention=True), tmp_path / "bundle")
    case = make_case(folder, "two", SIZES)
    pictures = [np.array(Image.open(folder / image["file"])) for image in case.settings["images"]]
    reference = Reference(folder)
    pixels = patches(pictures, IMAGE_RULES["image_mean"], IMAGE_RULES["image_std"])
    ids = case.arrays["input_ids"][0]
    reference.run(Request(ids.tolist(), pixels, [(4, 5), (1, 2)], steps=1))
    expected = reference.received.numpy()
    with load(out) as vlm:
        request = Pruning(method="visionzip", max_keep_ratio=0.5)
        report = vlm.ask_ids(pictures, ids, pruning=request).pruning
        scene = next(iter(vlm._scenes._states.values()))
        found = [image.received for image in scene.visual]
    assert [len(part) for part in found] == [20, 2]
    assert np.allclose(np.concatenate(found), expected, atol=1e-5)
    assert [float(part.sum()) for part in found] == pytest.approx([1, 1], abs=1e-5)
    assert (report.method, report.kept) == ("visionzip", 11)
    dominant = set(np.argsort(-expected[:20])[: 10 - 1])  # one of the ten is there for the rest
    assert dominant < set(np.flatnonzero(report.keep_masks[0]))


def test_the_graph_is_sound_and_without_the_option_as_before(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    dialects = ("ort", "opset24", "plain")
    plain = export(options(folder, dialects=dialects), tmp_path / "plain")
    more = export(options(folder, dialects=dialects, vision_attention=True), tmp_path / "more")
    assert (plain / "vision.data").read_bytes() == (more / "vision.data").read_bytes()
    for name in ("vision.onnx", "vision.opset24.onnx", "vision.plain.onnx"):
        outputs = [[output.name for output in onnx.load(bundle / name).graph.output] for bundle in (plain, more)]
        assert outputs == [["image_embeds", "features"], ["attention_received", "image_embeds", "features"]]
        if name != "vision.onnx":  # onnxruntime's operators are unknown to the checker
            onnx.checker.check_model(str(more / name), full_check=True)
    with load(plain) as vlm, pytest.raises(PruningError, match="export the model with --vision-attention"):
        vlm.ask_ids(
            np.zeros((56, 56, 3), np.uint8),
            [498, *[500] * 4, 499, 1, 2],
            pruning=Pruning(pre="visionzip", pre_keep=0.5),
        )
    assert find("visionzip").needs == ("vision_attention",)
    assert RECEIVED == "attention_received"


def test_an_encoder_of_windows_alone_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, fullatt_block_indexes=[])
    with pytest.raises(UnsupportedError, match="no vision block attends to the whole image"):
        plan(options(folder, vision_attention=True))
