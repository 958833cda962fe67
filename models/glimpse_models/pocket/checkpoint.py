"""Writes and reads pocket as published models are stored: a base folder and a GlimpsePrune adapter folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from glimpse_models.pocket.model.config import IMAGE_MEAN, IMAGE_STD, MERGE, PATCH, PocketConfig, special_id
from glimpse_models.pocket.model.glimpse import GlimpseModules
from glimpse_models.pocket.model.lora import Lora
from glimpse_models.pocket.model.model import decoder_weights, make_model
from glimpse_models.pocket.model.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, TURN_END, build_tokenizer, save_tokenizer

PACKAGED = Path(__file__).parent / "checkpoint"
MIN_PIXELS = 224 * 224
MAX_PIXELS = 896 * 896
DEFAULT_THRESHOLD = 0.05
"""Chosen on the validation split with ``validate``."""
_PUBLISHED_NAMES = {"model.language_model.": "model.", "model.visual.": "visual."}


def export_run(run: Path, folder: Path, threshold: float = DEFAULT_THRESHOLD) -> Path:
    """Write the checkpoint of a training run; see ``write_checkpoint``."""
    config = PocketConfig()
    weights = torch.load(run / "state.pt", weights_only=True)["weights"]
    model, modules = make_model(config), GlimpseModules(config)
    model.load_state_dict(weights["model"])
    modules.load_state_dict(weights["glimpse"])
    return write_checkpoint(folder, config, model, modules, threshold)


def export_plus(run: Path, folder: Path, threshold: float) -> Path:
    """Write what a training run's pocket-plus adds to the base: ``lora/`` and ``adapter/``."""
    config = PocketConfig()
    weights = torch.load(run / "state.pt", weights_only=True)["weights"]
    lora, modules = Lora(decoder_weights(make_model(config))), GlimpseModules(config)
    lora.load_state_dict(weights["lora"])
    modules.load_state_dict(weights["plus"])
    lora.save(folder / "lora", base="pocket")
    _write_adapter(folder / "adapter", config, modules, threshold)
    return folder


def export_adapter(run: Path, folder: Path, threshold: float) -> Path:
    """Write the adapter folder of a training run alone, for a base that is there already."""
    config = PocketConfig()
    modules = GlimpseModules(config)
    modules.load_state_dict(torch.load(run / "state.pt", weights_only=True)["weights"]["glimpse"])
    _write_adapter(folder, config, modules, threshold)
    return folder


def write_checkpoint(
    folder: Path,
    config: PocketConfig,
    model: Qwen2_5_VLForConditionalGeneration,
    modules: GlimpseModules,
    threshold: float = DEFAULT_THRESHOLD,
) -> Path:
    """Write ``base/`` and ``adapter/``, weights in float16.

    Args:
        folder: Where to write.
        config: The architecture.
        model: The base model.
        modules: The glimpse modules.
        threshold: Default of ``reduce_threshold``.

    Returns:
        ``folder``.

    Raises:
        ValueError: The tokenizer's ids are not those of the config.
    """
    base = folder / "base"
    base.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    for token in SPECIAL_TOKENS:
        if tokenizer.token_to_id(token) != special_id(token):
            raise ValueError(
                f"{token} has id {tokenizer.token_to_id(token)} in the tokenizer but {special_id(token)} in the "
                "config: correct FIRST_SPECIAL_ID in config.py"
            )
    save_tokenizer(tokenizer, base)
    _write_json(base / "config.json", config.base_config())
    _write_json(base / "generation_config.json", _generation_config())
    _write_json(base / "preprocessor_config.json", _preprocessor_config())
    weights = {_published(name): tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    _write_adapter(folder / "adapter", config, modules, threshold)
    return folder


def _write_adapter(folder: Path, config: PocketConfig, modules: GlimpseModules, threshold: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config.adapter_config(threshold, max_remain_ratio=None))
    torch.save(_adapter_state(modules), folder / "new_modules_gp.pt")


def read_checkpoint(folder: Path = PACKAGED) -> tuple[Qwen2_5_VLForConditionalGeneration, GlimpseModules]:
    """Load a checkpoint's base model and glimpse modules, widened to float32."""
    config = PocketConfig()
    model, modules = make_model(config), GlimpseModules(config)
    published = load_file(folder / "base" / "model.safetensors")
    model.load_state_dict({name: published[_published(name)].float() for name in model.state_dict()})
    saved = torch.load(folder / "adapter" / "new_modules_gp.pt", weights_only=True)
    modules.learnable_embeddings.data.copy_(saved["learnable_embeddings"])
    for name, part in _parts(modules).items():
        part.load_state_dict({key: tensor.float() for key, tensor in saved[name].items()})
    model.train(False)
    modules.train(False)
    return model, modules


def default_threshold(folder: Path = PACKAGED) -> float:
    """Read the adapter's default threshold."""
    config = json.loads((folder / "adapter" / "config.json").read_text())
    return float(config["reduce_threshold"])


def _published(name: str) -> str:
    for ours, theirs in _PUBLISHED_NAMES.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def _parts(modules: GlimpseModules) -> dict[str, nn.Module]:
    return {"attn_fuser": modules.attn_fuser, "le_proj": modules.le_proj, "le_norm": modules.le_norm}


def _adapter_state(modules: GlimpseModules) -> dict[str, Any]:
    state: dict[str, Any] = {"learnable_embeddings": modules.learnable_embeddings.detach().half()}
    for name, part in _parts(modules).items():
        tensors: dict[str, Tensor] = {key: tensor.half() for key, tensor in part.state_dict().items()}
        state[name] = tensors
    return state


def _generation_config() -> dict[str, Any]:
    return {
        "bos_token_id": special_id(END_OF_TEXT),
        "do_sample": False,
        "eos_token_id": [special_id(TURN_END), special_id(END_OF_TEXT)],
        "pad_token_id": special_id(END_OF_TEXT),
        "transformers_version": "4.51.3",
    }


def _preprocessor_config() -> dict[str, Any]:
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(IMAGE_MEAN),
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": list(IMAGE_STD),
        "max_pixels": MAX_PIXELS,
        "merge_size": MERGE,
        "min_pixels": MIN_PIXELS,
        "patch_size": PATCH,
        "processor_class": "Qwen2_5_VLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": MAX_PIXELS, "shortest_edge": MIN_PIXELS},
        "temporal_patch_size": 2,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
