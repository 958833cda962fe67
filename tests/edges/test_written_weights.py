"""Weights that say the same thing twice, or not what they seem to: no export takes one of two at random."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx_ir")

from safetensors.torch import load_file, save_file  # noqa: E402
from support.bundles import options  # noqa: E402
from support.files import edit_json  # noqa: E402
from support.places import GOLDEN, ROOT  # noqa: E402

from glimpse_export import CheckpointError, UnsupportedError, plan  # noqa: E402
from glimpse_export.source.lora.config import read_lora_config  # noqa: E402
from glimpse_export.source.tokenizer import check_tokenizer  # noqa: E402

LORA = ROOT / "models" / "glimpse_models" / "pocket" / "plus" / "lora"
LAYER = "model.layers.0.input_layernorm.weight"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    for part in ("base", "adapter"):
        shutil.copytree(GOLDEN / part, tmp_path / part)
    return tmp_path


def rewrite(model: Path, change: Change) -> None:
    path = model / "base" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (LAYER, "model.language_model.layers.0.input_layernorm.weight"),
        ("visual.patch_embed.proj.weight", "model.visual.patch_embed.proj.weight"),
    ],
)
def test_a_tensor_by_two_names_is_refused(model: Path, name: str, other: str) -> None:
    rewrite(model, lambda tensors: tensors.update({other: tensors[name] * 2}))
    with pytest.raises(CheckpointError, match=r"once more, which is .* delete one of them"):
        plan(options(model))


def test_a_tensor_in_two_shards_is_refused(model: Path) -> None:
    base = model / "base"
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for number, name in enumerate(names):
        part = {key: value for index, (key, value) in enumerate(tensors.items()) if index % 2 == number}
        save_file({**part, LAYER: tensors[LAYER] * (number + 1)}, base / name)
    where = {key: names[index % 2] for index, key in enumerate(tensors)}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(CheckpointError, match=f"{LAYER} is {LAYER} once more, which is {LAYER} of {names[0]}"):
        plan(options(model))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_names_of_a_wrapper_are_shown(model: Path, prefix: str) -> None:
    def wrap(tensors: dict[str, Any]) -> None:
        for key in list(tensors):
            tensors[f"{prefix}{key}"] = tensors.pop(key)

    rewrite(model, wrap)
    with pytest.raises(CheckpointError, match=rf"it has {prefix}\S+: save the model itself again"):
        plan(options(model))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda tensor: torch.zeros(1).expand(10**6, 10**6), "the file only 4 bytes of it"),
        (lambda tensor: tensor.to(torch.complex64), "is stored as complex64"),
        (lambda tensor: tensor.to(torch.int8), "is stored as int8"),
        (lambda tensor: tensor.to(torch.float8_e5m2), "is stored as float8_e5m2"),
        (lambda tensor: tensor.to_sparse(), "is not a plain tensor of numbers"),
    ],
)
def test_an_adapter_of_other_numbers_is_refused(model: Path, change: Callable[[Any], Any], part: str) -> None:
    path = model / "adapter" / "new_modules_gp.pt"
    tensors = torch.load(path, weights_only=True)
    tensors["learnable_embeddings"] = change(tensors["learnable_embeddings"])
    torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=part):
        plan(options(model))


@pytest.mark.parametrize("field", ["brand_new_feature", "scaling_of_each_layer"])
def test_a_field_of_a_lora_that_is_not_known_is_refused(tmp_path: Path, field: str) -> None:
    shutil.copytree(LORA, tmp_path / "lora")
    edit_json(tmp_path / "lora" / "adapter_config.json", **{field: {}, "loftq_config": {"bits": 4}})
    read_lora_config(tmp_path / "lora")
    edit_json(tmp_path / "lora" / "adapter_config.json", **{field: [0.5]})
    with pytest.raises(UnsupportedError, match=f"{field} = .* delete the field if it changes nothing"):
        read_lora_config(tmp_path / "lora")


def test_a_tokenizer_of_gigabytes_is_not_read(model: Path) -> None:
    path = model / "tokenizer.json"
    path.write_text("{}")
    os.truncate(path, 6 << 30)
    start_s = time.monotonic()
    with pytest.raises(CheckpointError, match=r"cannot be read \(it is larger than 128 MiB\)"):
        check_tokenizer(path, plan(options(model)).architecture)
    assert time.monotonic() - start_s < 5
