"""Weights of LLaVA-1.5: torch's pickles, and a vision tower in a folder of its own."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llava_models import GOLDEN, TOWER, copy_model
from support.files import edit_json

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

from glimpse_export import ExportOptions, export, plan
from glimpse_export.certify import command
from glimpse_export.errors import CheckpointError, ModelNotFoundError, UnsupportedError
from glimpse_export.source import torch_file
from glimpse_export.source.checkpoint import Checkpoint
from glimpse_export.source.torch_file import TorchFile
from glimpse_models.llava_1_5.heavy.family import FAMILY
from glimpse_runtime.bundle.bundle import Bundle

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def asked(model: Path, **changes: Any) -> ExportOptions:
    return ExportOptions(str(model / "base"), str(model / "adapter"), tokenizer=False, certify="off", **changes)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pickles_are_read_bit_by_bit(tmp_path: Path, dtype: str, legacy: bool) -> None:
    rng = torch.Generator().manual_seed(3)
    whole = torch.randn(40, 6, generator=rng).to(DTYPES[dtype])
    tensors = {"a": whole, "b": whole[3:9].T, "c": torch.randn(5, 2, 3, generator=rng).to(DTYPES[dtype])}
    torch.save(tensors, tmp_path / "x.bin", _use_new_zipfile_serialization=not legacy)
    file = TorchFile(tmp_path / "x.bin")
    assert file.shapes == {"a": (40, 6), "b": (6, 6), "c": (5, 2, 3)}
    assert set(file.dtypes.values()) == {dtype}
    for key, tensor in torch.load(tmp_path / "x.bin", weights_only=True).items():
        expected = tensor.float().numpy()
        np.testing.assert_array_equal(file.read(key), expected)
        np.testing.assert_array_equal(file.read(key, slice(1, 4)), expected[1:4])
        assert file.read(key).flags["C_CONTIGUOUS"]


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("touched-by-a-pickle"),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(2), "b": Harmful()}, tmp_path / "new.bin")
    (tmp_path / "old.bin").write_bytes(pickle.dumps({"a": Harmful()}))
    for name in ("new.bin", "old.bin"):
        with pytest.raises(CheckpointError, match="more than plain tensors"):
            TorchFile(tmp_path / name)
    assert not (tmp_path / "touched-by-a-pickle").exists()


def test_what_is_no_weight_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    torch.save([torch.zeros(2)], path)
    with pytest.raises(CheckpointError, match="not hold a dictionary"):
        TorchFile(path)
    torch.save({"a": torch.zeros(2, dtype=torch.int64), "b": 3}, path)
    with pytest.raises(CheckpointError, match="tensor a is stored as int64"):
        TorchFile(path)
    with pytest.raises(CheckpointError, match="tensor b is stored as int;"):
        TorchFile(path, lambda key: key == "b")
    assert TorchFile(path, lambda key: False).shapes == {}
    torch.save({"a": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(CheckpointError, match="not finite"):
        TorchFile(path).read("a")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="damaged"):
        TorchFile(path)
    torch.save({"a": torch.zeros(50)}, path, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(torch_file, "_LARGEST_UNMAPPED_BYTES", 100)
    with pytest.raises(UnsupportedError, match=r"before version 1\.6.*save it as safetensors"):
        TorchFile(path)


def test_only_the_rows_asked_for_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading rows of a large file maps it, and lets go of it again."""
    monkeypatch.setattr(torch_file, "_MAPPED_ANEW_AFTER_BYTES", 8 << 20)
    path = tmp_path / "x.bin"
    torch.save({"a": torch.zeros(1 << 14, 1 << 10)}, path)  # 64 MiB
    file = TorchFile(path)

    def resident() -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) << 10

    if not Path("/proc/self/status").exists():
        pytest.skip("counts pages as Linux shows them")
    before = resident()
    for start in range(0, 1 << 14, 1 << 10):
        file.read("a", slice(start, start + (1 << 10)))
    assert resident() - before < 24 << 20


def test_shards_of_pickles_are_the_tensors_of_the_other_layout() -> None:
    """The golden model lies there in both layouts, the vision tower in float32 and in one file with the rest."""
    ours = Checkpoint(GOLDEN / "base", FAMILY.tensor_name, GOLDEN / TOWER)
    theirs = Checkpoint(GOLDEN / "base_llava_hf", FAMILY.tensor_name)
    assert set(ours.shapes) == set(theirs.shapes)
    for name, shape in ours.shapes.items():
        rows = shape[0]
        np.testing.assert_array_equal(ours.read(name), theirs.read(name, 0, rows), err_msg=name)


def test_names_of_all_versions() -> None:
    for key, name in {
        "model.layers.3.mlp.up_proj.weight": "model.layers.3.mlp.up_proj.weight",
        "lm_head.weight": "lm_head.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq": None,
        "language_model.model.layers.0.x": "model.layers.0.x",
        "language_model.lm_head.weight": "lm_head.weight",
        "model.language_model.layers.0.x": "model.layers.0.x",
        "language_model.norm.weight": "model.norm.weight",
        "multi_modal_projector.linear_1.weight": "model.mm_projector.0.weight",
        "model.multi_modal_projector.linear_2.bias": "model.mm_projector.2.bias",
        "vision_tower.vision_model.pre_layrnorm.bias": "vision_model.pre_layrnorm.bias",
        "vision_tower.pre_layrnorm.bias": "vision_model.pre_layrnorm.bias",
        "model.vision_tower.encoder.layers.1.x": "vision_model.encoder.layers.1.x",
        "model.vision_tower.vision_model.embeddings.position_ids": None,
        "model.vision_tower.vision_tower.vision_model.encoder.layers.1.x": "vision_model.encoder.layers.1.x",
        "vision_tower.vision_model.post_layernorm.weight": None,
    }.items():
        assert FAMILY.tensor_name(key) == name, key
    for key, name in {
        "vision_model.embeddings.class_embedding": "vision_model.embeddings.class_embedding",
        "embeddings.class_embedding": "vision_model.embeddings.class_embedding",
        "text_model.encoder.layers.0.x": None,
        "visual_projection.weight": None,
        "logit_scale": None,
    }.items():
        assert FAMILY.tensor_name(key, True) == name, key


@pytest.mark.parametrize("form", ["safetensors", "bare", "shards"])
def test_a_tower_in_other_forms_is_the_same(tmp_path: Path, form: str) -> None:
    model = copy_model(tmp_path)
    tower = model / TOWER
    tensors = torch.load(tower / "pytorch_model.bin", weights_only=True)
    (tower / "pytorch_model.bin").unlink()
    if form == "bare":
        tensors = {key: value for key, value in tensors.items() if key.startswith("vision_model.")}
        config = json.loads((tower / "config.json").read_text())["vision_config"]
        (tower / "config.json").write_text(json.dumps(config))
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    if form == "shards":
        where = {key: f"pytorch_model-0000{index % 2 + 1}-of-00002.bin" for index, key in enumerate(tensors)}
        for file in set(where.values()):
            torch.save({key: value for key, value in tensors.items() if where[key] == file}, tower / file)
        (tower / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    else:
        save_file(tensors, tower / "model.safetensors")
    assert plan(asked(model)).architecture == plan(asked(GOLDEN)).architecture
    found, expected = (plan(asked(place)).checkpoint for place in (model, GOLDEN))
    assert found.shapes == expected.shapes
    for name in found.shapes:
        if name.startswith("vision_model."):
            np.testing.assert_array_equal(found.read(name), expected.read(name))


def test_where_a_tower_is_looked_for(tmp_path: Path) -> None:
    model = copy_model(tmp_path / "model")
    beside = plan(asked(model)).folders
    assert (beside.tower, beside.tower_source) == (model / TOWER, TOWER)
    shutil.move(model / "openai", model / "base" / "openai")
    assert plan(asked(model)).folders.tower == model / "base" / TOWER
    moved = shutil.move(model / "base" / TOWER, tmp_path / "clip")
    given = plan(asked(model, vision_tower=str(moved))).folders
    assert (given.tower, given.tower_source) == (tmp_path / "clip", "clip")
    edit_json(model / "base" / "config.json", mm_vision_tower=str(moved))
    absolute = plan(asked(model)).folders
    assert (absolute.tower, absolute.tower_source) == (tmp_path / "clip", "clip")
    edit_json(model / "base" / "config.json", mm_vision_tower="/nowhere/clip")
    with pytest.raises(ModelNotFoundError, match=r"names the vision tower '/nowhere/clip'.*--vision-tower"):
        plan(asked(model))


def test_a_tower_is_refused_where_there_is_one(golden: Path) -> None:
    with pytest.raises(UnsupportedError, match="holds its own vision tower; leave --vision-tower some/where away"):
        plan(asked(golden, vision_tower="some/where"))
    hf = ExportOptions(
        str(GOLDEN / "base_llava_hf"), str(GOLDEN / "adapter"), vision_tower="x/y", tokenizer=False, certify="off"
    )
    with pytest.raises(UnsupportedError, match="holds its own vision tower"):
        plan(hf)


def test_a_tower_of_other_sizes_is_refused(tmp_path: Path) -> None:
    model = copy_model(tmp_path)
    edit_json(model / TOWER / "config.json", vision_config={"hidden_size": 64, "num_attention_heads": 4})
    with pytest.raises(CheckpointError, match="mm_hidden_size 48 is not the vision tower's hidden_size 64"):
        plan(asked(model))


def test_a_tower_trained_with_the_rest_is_the_base_s(tmp_path: Path) -> None:
    model = copy_model(tmp_path)
    shard = model / "base" / "pytorch_model-00002-of-00002.bin"
    tensors = torch.load(shard, weights_only=True)
    name = "vision_model.encoder.layers.0.mlp.fc1.bias"
    own = torch.full((112,), 0.25, dtype=torch.float16)
    torch.save({**tensors, f"model.vision_tower.vision_tower.{name}": own}, shard)
    assert plan(asked(model)).checkpoint.read(name)[0] != 0.25
    edit_json(model / "base" / "config.json", unfreeze_mm_vision_tower=True)
    assert (plan(asked(model)).checkpoint.read(name) == 0.25).all()


def test_a_tower_s_files_are_part_of_what_a_bundle_is_made_from(tmp_path: Path) -> None:
    model = copy_model(tmp_path / "model")
    source = Bundle.open(export(asked(model), tmp_path / "first")).manifest.model.source
    assert source.tower == TOWER
    tensors = torch.load(model / TOWER / "pytorch_model.bin", weights_only=True)
    tensors["vision_model.pre_layrnorm.bias"][0] += 1
    torch.save(tensors, model / TOWER / "pytorch_model.bin")
    other = Bundle.open(export(asked(model), tmp_path / "second")).manifest
    assert other.model.source.tower_sha256 != source.tower_sha256
    assert other.model.source.base_sha256 == source.base_sha256
    shutil.copytree(model / TOWER, tmp_path / "clip")
    named = plan(asked(model, vision_tower=str(tmp_path / "clip")))
    assert "--vision-tower clip" in command(named, "quick")
    assert "--vision-tower" not in command(plan(asked(model)), "quick")


def test_a_missing_tensor_of_the_tower_is_named_with_its_folder(tmp_path: Path) -> None:
    model = copy_model(tmp_path)
    path = model / TOWER / "pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    del tensors["vision_model.encoder.layers.2.mlp.fc1.bias"]
    torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=r"with the vision tower .*lacks tensor vision_model.*2\.mlp\.fc1\.bias"):
        plan(asked(model))


def test_a_tensor_of_no_known_place_is_refused(tmp_path: Path) -> None:
    model = copy_model(tmp_path)
    path = model / TOWER / "pytorch_model.bin"
    torch.save({**torch.load(path, weights_only=True), "vision_model.encoder.layers.5.mlp.fc1.bias": own()}, path)
    with pytest.raises(CheckpointError, match=r"layers\.5\.mlp\.fc1\.bias has no place"):
        plan(asked(model))


def own() -> Any:
    return torch.zeros(112)
