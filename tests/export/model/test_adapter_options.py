"""Options of an adapter's config.json: followed, known to change nothing, or refused by name; for both families."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from support.bundles import options
from support.files import edit_json
from support.places import TESTS

from glimpse_export import CheckpointError, ExportOptions, UnsupportedError, plan
from glimpse_runtime.inputs.grid import Grid
from glimpse_runtime.pruning.rule import Rule, select


@pytest.fixture(params=["qwen", "llava"])
def made(request: pytest.FixtureRequest, model: Path, tmp_path: Path) -> tuple[Path, ExportOptions]:
    """The adapter's config.json, and an export with it."""
    if request.param == "qwen":
        return model / "adapter" / "config.json", options(model)
    golden, adapter = TESTS / "golden" / "llavaA", tmp_path / "adapter"
    shutil.copytree(golden / "adapter", adapter)
    base = str(golden / "base_llava_hf")
    return adapter / "config.json", ExportOptions(base, str(adapter), tokenizer=False, certify="off")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enable_frame_redundancy_merge": True}, "enable_frame_redundancy_merge is not supported"),
        ({"frame_redundancy_new": 1}, "option 'frame_redundancy_new' is not known"),
        ({"enable_second_glimpse": False}, "option 'enable_second_glimpse' is not known"),
        ({"anything": 0}, "option 'anything' is not known to this version; delete the field if it changes nothing"),
        ({"fixed_remain_ration": 0.5}, r"did you mean fixed_remain_ratio\?"),
        ({"fixed_remain_ratio": 0.5, "anchor_positions": ["tl"]}, "anchor_positions together with fixed_remain_ratio"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised with bitsandbytes"),
    ],
)
def test_refused(made: tuple[Path, ExportOptions], changes: dict[str, Any], message: str) -> None:
    path, asked = made
    edit_json(path, **changes)
    with pytest.raises(UnsupportedError, match=message):
        plan(asked)


def test_a_share_out_of_range(made: tuple[Path, ExportOptions]) -> None:
    path, asked = made
    edit_json(path, fixed_remain_ratio=-0.1)
    with pytest.raises(CheckpointError, match=r"fixed_remain_ratio -0\.1 must lie in 0\.\.1"):
        plan(asked)


def test_fields_that_change_nothing(made: tuple[Path, ExportOptions]) -> None:
    path, asked = made
    before = plan(asked).architecture
    edit_json(
        path,
        attn_fuse_use_flash_attn=True,
        enable_frame_redundancy_merge=False,
        frame_redundancy_pooling_mode="mean",
        frame_redundancy_min_keep_ratio=0.5,
        frame_redundancy_min_keep_tokens=4,
        frame_redundancy_similarity_threshold=0.97,
        fixed_remain_ratio=None,
        _attn_implementation_autoset=True,
        id2label={"0": "LABEL_0"},
        torchscript=False,
        unheard_of=None,
    )
    assert plan(asked).architecture == before


@pytest.mark.parametrize("ratio", [0, 0.01, 0.1, 0.35, 1])
def test_a_fixed_share_is_the_reference_s(made: tuple[Path, ExportOptions], ratio: float) -> None:
    """The authors' code: ``k = max(1, min(n, int(ratio * n)))``, and the k highest; nothing else has a say."""
    path, asked = made
    edit_json(path, fixed_remain_ratio=ratio, max_remain_ratio=0.2, min_remain_num=9, reduce_threshold=0.9)
    rule = plan(asked).architecture.pruning
    logits = np.random.default_rng(0).normal(-3, 4, 6 * 8).astype(np.float32)
    kept = select(logits, Rule(rule.threshold, rule.max_keep_ratio, rule.min_keep, rule.anchors), [Grid(12, 16, 2)])
    count = max(1, min(logits.size, int(ratio * logits.size)))
    assert set(np.flatnonzero(kept)) == set(np.argsort(logits)[-count:])
