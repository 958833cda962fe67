"""LLaVA-1.5 from the hub: pickles where there is nothing else, the tower that the base names, adapters by any name."""

import json
from pathlib import Path

import pytest
from llava_models import GOLDEN, TOWER
from stand_ins.hub_server import Hub, files_of
from support.commands import Command

pytest.importorskip("huggingface_hub")
pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import torch
from safetensors.torch import save

EXPORT = "glimpse_export.cli.export"
OPTIONS = ("--no-tokenizer", "--certify", "off")


def hub_files(folder: Path, **changes: object) -> dict[str, bytes]:
    """A folder's files, with fields of its ``config.json`` changed."""
    files = files_of(folder)
    return {**files, "config.json": json.dumps({**json.loads(files["config.json"]), **changes}).encode()}


def test_base_and_tower_come_from_the_hub(hub: Hub, command: Command, tmp_path: Path) -> None:
    hub.add("the/llava", hub_files(GOLDEN / "base", mm_vision_tower="open/clip"))
    tower = hub.add("open/clip", {**files_of(GOLDEN / TOWER), "tf_model.h5": b"x", "README.md": b"read me"})
    hub.add("the/adapter", files_of(GOLDEN / "adapter"))
    environment = hub.environment(tmp_path / "home")
    words = ("--model", "the/llava", "--adapter", "the/adapter", *OPTIONS, "--out", tmp_path / "out")
    done = command(EXPORT, *words, **environment)
    assert done.returncode == 0, done.stderr
    assert hub.asked("pytorch_model-00001-of-00002.bin")
    assert not hub.asked("mm_projector") + hub.asked("tf_model") + hub.asked("README")
    source = json.loads((tmp_path / "out" / "manifest.json").read_text())["model"]["source"]
    assert source["tower"] == f"open/clip@{tower}"


@pytest.mark.slow
def test_safetensors_are_enough_where_there_are_both(hub: Hub, command: Command, tmp_path: Path) -> None:
    tensors = torch.load(GOLDEN / TOWER / "pytorch_model.bin", weights_only=True)
    packed = save({key: value.contiguous() for key, value in tensors.items()})
    hub.add("open/clip", {**files_of(GOLDEN / TOWER), "model.safetensors": packed})
    environment = hub.environment(tmp_path / "home")
    words = ("--model", GOLDEN / "base", "--adapter", GOLDEN / "adapter", *OPTIONS, "--vision-tower", "open/clip")
    done = command(EXPORT, *words, "--out", tmp_path / "out", **environment)
    assert done.returncode == 0, done.stderr
    assert hub.asked("model.safetensors")
    assert not hub.asked("pytorch_model.bin")


def test_a_tower_that_the_hub_does_not_have(hub: Hub, command: Command, tmp_path: Path) -> None:
    hub.add("the/llava", hub_files(GOLDEN / "base", mm_vision_tower="open/clip"))
    words = ("--model", "the/llava", "--adapter", GOLDEN / "adapter", *OPTIONS, "--dry-run")
    done = command(EXPORT, *words, **hub.environment(tmp_path / "home"))
    assert done.returncode == 1
    for part in ("the vision tower that", "open/clip", "--vision-tower"):
        assert part in done.stderr


@pytest.mark.slow
def test_an_adapter_is_tried_under_its_other_name(hub: Hub, command: Command, tmp_path: Path) -> None:
    hub.add("liuhaotian/llava-v1.5-13b", files_of(GOLDEN / "base"))
    hub.add("openai/clip-vit-large-patch14-336", files_of(GOLDEN / TOWER))
    environment = hub.environment(tmp_path / "home")
    words = ("--model", "llava-1.5-13b", *OPTIONS, "--dry-run")
    done = command(EXPORT, *words, **environment)
    assert done.returncode == 1
    assert "ashun989/GlimpsePrune-LLaVA-1.5-13B" in done.stderr
    assert "tried as well: ashun989/GlimpsePrune_LLaVA-1.5-13B" in done.stderr
    hub.add("ashun989/GlimpsePrune_LLaVA-1.5-13B", files_of(GOLDEN / "adapter"))
    done = command(EXPORT, *words, **environment)
    assert done.returncode == 0, done.stderr
    assert "Llama 2 Community License" in done.stdout
