"""The checkpoint that LLaVA-1.5 is measured on, cut down: the authors' layout, read by torch and by the exporter."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("google.protobuf")
pytest.importorskip("torch")

import torch
from support.dims import llava_dims

from benchmarks.make_checkpoint import cut, write
from glimpse_export import ExportOptions, export, plan
from glimpse_models import MODELS
from glimpse_models.llava_1_5.facts.published import TOWER
from glimpse_runtime import load

SMALL = dataclasses.replace(
    cut(MODELS["llava-1.5-7b"].dims, layers=3, depth=4, vocab=700),
    hidden_size=256,
    heads=4,
    kv_heads=4,
    intermediate_size=128,
    vision_hidden_size=64,
    vision_heads=2,
    vision_intermediate_size=96,
    image_size=112,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "checkpoint"
    write(folder, SMALL, shard_bytes=900_000)
    return folder


def config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_exporter_takes_it(made: Path) -> None:
    planned = plan(ExportOptions(str(made / "base"), str(made / "adapter")))
    assert not planned.architecture.text.tied
    assert planned.architecture.scorer.taps == (2, 1, 0)
    assert llava_dims(config(made / "base"), config(made / "adapter"), config(made / TOWER)) == SMALL


def test_shards_are_as_published(made: Path) -> None:
    index = json.loads((made / "base" / "pytorch_model.bin.index.json").read_text())
    files = sorted(path.name for path in (made / "base").glob("*.bin"))
    assert files == [f"pytorch_model-{n:05}-of-{len(files):05}.bin" for n in range(1, len(files) + 1)]
    assert len(files) > 2
    tensors = {}
    for file in files:
        part = torch.load(made / "base" / file, weights_only=True)
        assert {name for name, place in index["weight_map"].items() if place == file} == set(part)
        tensors |= part
    tower = torch.load(made / TOWER / "pytorch_model.bin", weights_only=True)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert {tensor.dtype for tensor in tower.values()} == {torch.float32}
    parameters = sum(tensor.numel() for tensor in (*tensors.values(), *tower.values()))
    assert parameters == SMALL.parameters
    assert index["metadata"]["total_size"] == 2 * sum(tensor.numel() for tensor in tensors.values())


def test_values_reach_the_files(made: Path, tmp_path: Path) -> None:
    contents = set()
    for path in (*(made / "base").glob("*.bin"), made / TOWER / "pytorch_model.bin"):
        for name, tensor in torch.load(path, weights_only=True).items():
            assert torch.isfinite(tensor).all(), name
            assert tensor.count_nonzero() > 0.9 * tensor.numel(), name
            contents.add(tensor.numpy().tobytes())
    assert len(contents) == len(names(made))
    write(tmp_path / "whole", SMALL)
    whole = torch.load(tmp_path / "whole" / "base" / "pytorch_model-00001-of-00001.bin", weights_only=True)
    name = "model.layers.2.mlp.up_proj.weight"
    index = json.loads((made / "base" / "pytorch_model.bin.index.json").read_text())
    part = torch.load(made / "base" / index["weight_map"][name], weights_only=True)
    assert torch.equal(whole[name], part[name])


def names(made: Path) -> list[str]:
    """Names of all tensors of base and tower."""
    index = json.loads((made / "base" / "pytorch_model.bin.index.json").read_text())
    return [*index["weight_map"], *torch.load(made / TOWER / "pytorch_model.bin", weights_only=True)]


def test_some_tokens_are_kept_and_others_dropped(made: Path, tmp_path: Path) -> None:
    out = export(
        ExportOptions(str(made / "base"), str(made / "adapter"), max_context=512, certify="off"), tmp_path / "bundle"
    )
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8).repeat(14, 0).repeat(14, 1)
    with load(out) as vlm:
        answer = vlm.ask(image, "What colour is the circle?", max_new_tokens=4)
        text = answer.text
    assert answer.pruning.total == 64
    assert 1 < answer.pruning.kept < 48
    assert text


def test_vocabulary_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--vocab must be at least 354"):
        write(tmp_path / "new", dataclasses.replace(SMALL, vocab_size=353))
    assert list(tmp_path.iterdir()) == []
