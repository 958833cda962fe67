"""What is merged while the base is read is what peft merges, and the two bundles are one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")
pytest.importorskip("peft", reason="compares with peft; pip install peft")

import peft
import torch
from support.bundles import options
from support.checkpoints import write_model

from glimpse_export import export
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.source.lora.adapter import Lora
from glimpse_export.source.lora.merged import MergedCheckpoint
from glimpse_models.qwen2_5_vl.heavy.family import FAMILY
from glimpse_runtime.files.hashing import sha256_of

tensor_name = FAMILY.tensor_name

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "both towers": ("bfloat16", {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj", "qkv", "proj"]}),
    "patterns": (
        "float32",
        {
            "r": 8,
            "lora_alpha": 16,
            "use_rslora": True,
            "target_modules": r".*language_model.*\.(q_proj|k_proj|gate_proj)|model\.visual\.blocks\.\d+\.mlp\..*_proj",
            "rank_pattern": {r"layers\.[12]\.self_attn\.q_proj": 16, "mlp.gate_proj": 4},
            "alpha_pattern": {"k_proj": 64, r"model\.visual\.blocks\.1\..*": 4},
        },
    ),
    "all linear": ("float16", {"r": 4, "lora_alpha": 2, "target_modules": "all-linear"}),
    "convolution": ("float32", {"r": 4, "target_modules": ["patch_embed.proj", "o_proj"], "fan_in_fan_out": False}),
    "embedding and head": (
        "bfloat16",
        {
            "r": 32,
            "target_modules": ["embed_tokens", "lm_head", "o_proj", "k_proj"],
            "modules_to_save": ["norm", "merger"],
            "bias": "lora_only",
        },
    ),
}


def trained(base: Path, folder: Path, config: dict[str, Any]) -> Path:
    """Saves an adapter whose weights are multiples of 1/64, so that sums of products are exact in any order."""
    from transformers import Qwen2_5_VLForConditionalGeneration as Model

    model = peft.get_peft_model(Model.from_pretrained(base, dtype="auto"), peft.LoraConfig(**config))
    rng = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        drawn = torch.randint(-8, 9, parameter.shape, generator=rng) / 64
        if "lora_" in name:
            parameter.data = drawn.to(parameter.dtype)
        elif "modules_to_save" in name or (name.endswith("base_layer.bias") and config.get("bias") == "lora_only"):
            parameter.data += drawn.to(parameter.dtype)
    model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, lora: Path, folder: Path) -> Path:
    from transformers import Qwen2_5_VLForConditionalGeneration as Model

    model = peft.PeftModel.from_pretrained(Model.from_pretrained(base, dtype="auto"), lora)
    model.merge_and_unload().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("dtype", "config"), ADAPTERS.values(), ids=ADAPTERS)
def test_every_weight_is_that_of_peft(tmp_path: Path, dtype: str, config: dict[str, Any]) -> None:
    base = write_model(tmp_path / "model", dtype=dtype) / "base"
    lora = trained(base, tmp_path / "lora", config)
    expected = Checkpoint(merged_by_peft(base, lora, tmp_path / "merged"), tensor_name)
    found, plain = MergedCheckpoint(base, tensor_name, Lora(lora, tensor_name)), Checkpoint(base, tensor_name)
    found.check(expected.shapes, tied=False)
    changed = 0
    for name in expected.shapes:
        np.testing.assert_array_equal(found.read(name), expected.read(name), err_msg=name, strict=True)
        changed += not np.array_equal(found.read(name), plain.read(name))
    assert changed >= len(Lora(lora, tensor_name).products) > 4
    assert expected.dtypes == found.dtypes == dict.fromkeys(found.dtypes, dtype)


def test_the_bundle_is_that_of_pefts_merged_model(tmp_path: Path) -> None:
    """Which is at the same time what a fine-tuned base is: a folder that this transformers has written."""
    dtype, config = ADAPTERS["embedding and head"]
    model = write_model(tmp_path / "model", dtype=dtype)
    lora = trained(model / "base", tmp_path / "lora", config)
    merged = merged_by_peft(model / "base", lora, tmp_path / "merged" / "base")
    shutil.copy(model / "base" / "preprocessor_config.json", merged)
    shutil.copytree(model / "adapter", tmp_path / "merged" / "adapter")
    found = export(options(model, lora=str(lora), certify="quick"), tmp_path / "found")
    expected = export(options(tmp_path / "merged", certify="quick"), tmp_path / "expected")
    for path in expected.iterdir():
        if path.suffix in (".data", ".bin", ".onnx"):
            assert sha256_of(found / path.name) == sha256_of(path), path.name
    assert json.loads((found / "certificate.json").read_text())["passed"]
