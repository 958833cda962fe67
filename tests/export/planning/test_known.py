"""Plans of models known by name without their files: equal to those with them, and only without a connection."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import torch
from safetensors.numpy import save_file
from stand_ins.hub_server import Hub
from support.commands import run_apart

from glimpse_export import ExportOptions, ModelNotFoundError, plan
from glimpse_export.exporter import forecast
from glimpse_export.forecast.estimate import estimate
from glimpse_export.forecast.text import describe, to_json
from glimpse_models import MODELS, registry
from glimpse_models.facts import ModelFacts
from glimpse_models.llava_1_5.facts.dims import LlavaDims
from glimpse_models.llava_1_5.facts.published import TOWER
from glimpse_models.llava_1_5.facts.published import published as llava
from glimpse_models.qwen2_5_vl.facts.dims import QwenDims
from glimpse_models.qwen2_5_vl.facts.published import published as qwen

SIZES = {"hidden_size": 256, "layers": 4, "heads": 2, "kv_heads": 2, "intermediate_size": 384, "vocab_size": 32000}
TOWER_SIZES = {"vision_hidden_size": 128, "vision_depth": 4, "vision_heads": 4, "vision_intermediate_size": 256}
QWEN = QwenDims(**SIZES, tied=True, reduce_layer=2, taps=(3, 1), full_attention=(1, 3), **TOWER_SIZES)
LLAVA = LlavaDims(**SIZES, reduce_layer=2, taps=(2, 0), **TOWER_SIZES)


@pytest.fixture(autouse=True)
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No connection, and nothing in the cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("dims", [QWEN, LLAVA], ids=["qwen", "llava"])
def test_the_plan_is_that_of_the_files(dims: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = qwen(dims) if dims is QWEN else llava(dims)
    facts = ModelFacts("small", "nobody/base", "nobody/adapter", "MIT", "None.", dims, {}, published=said)
    monkeypatch.setitem(registry.MODELS, "small", facts)
    known = forecast(ExportOptions("small", tokenizer=False))
    assert known.is_known
    folder = write_files(tmp_path / "model", known, said.configs)
    real = plan(ExportOptions(str(folder / "base"), str(folder / "adapter"), tokenizer=False))
    assert (known.architecture, known.images, known.profiles) == (real.architecture, real.images, real.profiles)
    known_costs, real_costs = estimate(known), estimate(real)
    assert (known_costs.stages, known_costs.run) == (real_costs.stages, real_costs.run)
    assert known_costs.hash_seconds == pytest.approx(real_costs.hash_seconds, rel=0.01)
    assert known.embedding_dtype == real.embedding_dtype


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("pocket")])
def test_published_models_are_planned_from_their_sizes(name: str) -> None:
    known = forecast(ExportOptions(name))
    dims = MODELS[name].dims
    assert (known.architecture.text.layers, known.architecture.text.hidden_size) == (dims.layers, dims.hidden_size)
    assert "its files cannot be reached, so they were not checked" in describe(known)
    assert json.loads(to_json(known))["from_known_sizes"] is True


@pytest.mark.parametrize("changes", [{"adapter": "somebody/else"}, {"revision": "v2"}, {"lora": "somebody/lora"}])
def test_other_files_than_its_own_are_not_known(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        forecast(ExportOptions("qwen2.5-vl-3b", **changes))


def test_an_export_needs_the_files() -> None:
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        plan(ExportOptions("qwen2.5-vl-3b"))


def test_a_dry_run_says_so(tmp_path: Path) -> None:
    words = ("--model", "qwen2.5-vl-3b", "--dry-run")
    done = run_apart("glimpse_export.cli.export", *words, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "sizes          as known for this model" in done.stdout


def test_a_hub_that_answers_is_believed(hub: Hub, tmp_path: Path) -> None:
    words = ("--model", "qwen2.5-vl-3b", "--dry-run")
    done = run_apart("glimpse_export.cli.export", *words, **hub.environment(tmp_path))
    assert done.returncode == 1
    assert "there is no such repository" in done.stderr


def write_files(folder: Path, known: Any, configs: Any) -> Path:
    """Writes the files of a model, all zero."""
    places = {"base": "base/config.json", "adapter": "adapter/config.json", "generation": "base/generation_config.json"}
    tower = f"base/{TOWER}" if "tower" in configs else "base"
    places |= {"images": f"{tower}/preprocessor_config.json", "tower": f"{tower}/config.json"}
    for part, content in configs.items():
        path = folder / places[part]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    dtype = np.dtype(next(iter(known.checkpoint.dtypes.values())))
    weights = {name: np.zeros(shape, dtype) for name, shape in known.checkpoint.shapes.items()}
    apart = {name: value for name, value in weights.items() if "tower" in configs and name.startswith("vision_model.")}
    save_file({name: value for name, value in weights.items() if name not in apart}, folder / "base/model.safetensors")
    if apart:
        save_file(apart, folder / tower / "model.safetensors")
    modules: dict[str, Any] = {}
    for name, value in known.adapter.tensors.items():
        module, _, part = name.partition(".")
        if part:
            modules.setdefault(module, {})[part] = torch.from_numpy(value)
        else:
            modules[module] = torch.from_numpy(value)
    torch.save(modules, folder / "adapter/new_modules_gp.pt")
    return folder
