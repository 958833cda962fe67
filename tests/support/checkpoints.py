"""Tiny random checkpoints with adapters, and cases for them, in the layout of tests/golden/modelA.

``write_model`` writes the files that ``save_pretrained`` and the published adapters consist of; ``make_case`` draws
images and a prompt until no decision of the reference hangs on float noise.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from reference import Reference, Request, margin, patches
from safetensors.torch import save_file
from torch import Tensor

TEXT = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "intermediate_size": 50,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    "tie_word_embeddings": False,
}
VISION = {
    "depth": 4,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 40,
    "hidden_act": "silu",
    "window_size": 56,
    "fullatt_block_indexes": [1],
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_chans": 3,
}
GLIMPSE = {
    "selected_layers": [1],
    "reduce_layer": 1,
    "use_attention_logits": True,
    "le_layers": [0, 1],
    "le_length": 1,
    "le_norm_type": "rmsnorm",
    "attn_fuse_type": "AttnFuserV1",
    "attn_fuse_size": 16,
    "visual_cond_size": 16,
    "attn_fuse_num_heads": 2,
    "attn_fuse_hidden_act": "silu",
    "attn_fuse_global": True,
    "selected_visual_layers": [3, 0],
    "deep_supervision": False,
    "ori_attn_supervision": False,
    "reduce_threshold": 0.5,
    "min_remain_num": 1,
    "max_remain_ratio": None,
    "anchor_positions": [],
    "use_ref_masks": False,
    "use_zero_masks": False,
}
IDS = {
    "image_token_id": 500,
    "video_token_id": 501,
    "vision_start_token_id": 498,
    "vision_end_token_id": 499,
    "bos_token_id": 490,
    "eos_token_id": 491,
}
IMAGE_RULES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.25, 0.3, 0.2],
    "min_pixels": 784,
    "max_pixels": 1003520,
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
}
WORDS, START, END, PLAIN = 512, 498, 499, 480
SAFE, TRIES = 0.01, 100

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """Settings as in a golden NAME.json, and the arrays expected."""

    settings: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write_model(
    folder: Path,
    *,
    text: Options | None = None,
    vision: Options | None = None,
    glimpse: Options | None = None,
    dtype: str = "float32",
    shards: int = 1,
    seed: int = 0,
) -> Path:
    """Writes base/ and adapter/ with random weights that keep about half of the image tokens.

    Args:
        folder: where to.
        text: fields of the base config.json that differ from TEXT.
        vision: fields of its vision_config that differ from VISION.
        glimpse: fields of the adapter's config.json that differ from GLIMPSE.
        dtype: how weights are stored: float32, float16 or bfloat16.
        shards: number of weight files.
        seed: of the weights.
    """
    language = {**TEXT, **(text or {})}
    tower = {**VISION, **(vision or {}), "out_hidden_size": language["hidden_size"]}
    options = {**GLIMPSE, **(glimpse or {})}
    config = {
        "model_type": "qwen2_5_vl",
        "vocab_size": WORDS,
        "max_position_embeddings": 1024,
        **IDS,
        **language,
        "vision_config": tower,
    }
    stored = getattr(torch, dtype)
    rng = torch.Generator().manual_seed(seed)
    for name in ("base", "adapter", "images"):
        (folder / name).mkdir(parents=True)
    base, adapter = folder / "base", folder / "adapter"
    _write_json(base / "config.json", config)
    _write_json(base / "generation_config.json", {"eos_token_id": [491, 490]})
    _write_json(base / "preprocessor_config.json", IMAGE_RULES)
    _write_json(adapter / "config.json", {**config, **options, "model_type": "qwen2_5_vl_gp"})
    weights = {name: _random(name, shape, rng).to(stored) for name, shape in base_shapes(language, tower).items()}
    _write_weights(base, weights, shards)
    modules = {n: _random(n, s, rng) for n, s in adapter_shapes(language, tower, options).items()}
    _write_adapter(adapter, modules, stored)
    _centre(folder, modules, stored)
    return folder


def base_shapes(text: Options, vision: Options) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a Qwen2.5-VL checkpoint."""
    hidden, inner, layers = text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]
    kv = hidden // text["num_attention_heads"] * text["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (WORDS, hidden), "model.norm.weight": (hidden,)}
    if not text["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (WORDS, hidden)
    for name in (f"model.layers.{layer}" for layer in range(layers)):
        shapes |= {f"{name}.{part}_layernorm.weight": (hidden,) for part in ("input", "post_attention")}
        for part, rows in (("q", hidden), ("k", kv), ("v", kv)):
            shapes |= _linear(f"{name}.self_attn.{part}_proj", rows, hidden)
        shapes |= _linear(f"{name}.self_attn.o_proj", hidden, hidden, bias=False)
        shapes |= _gated(f"{name}.mlp", hidden, inner, bias=False)
    width, unit = vision["hidden_size"], 4 * vision["hidden_size"]
    shapes["visual.patch_embed.proj.weight"] = (width, 3, 2, 14, 14)
    for name in (f"visual.blocks.{block}" for block in range(vision["depth"])):
        shapes |= {f"{name}.norm{n}.weight": (width,) for n in (1, 2)}
        shapes |= _linear(f"{name}.attn.qkv", 3 * width, width) | _linear(f"{name}.attn.proj", width, width)
        shapes |= _gated(f"{name}.mlp", width, vision["intermediate_size"])
    shapes["visual.merger.ln_q.weight"] = (width,)
    return shapes | _linear("visual.merger.mlp.0", unit, unit) | _linear("visual.merger.mlp.2", hidden, unit)


def adapter_shapes(text: Options, vision: Options, glimpse: Options) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of an adapter; a V2 scorer keeps projections that it does not use."""
    hidden, size, condition = text["hidden_size"], glimpse["attn_fuse_size"], glimpse["visual_cond_size"]
    both = size + (condition if glimpse["attn_fuse_type"] == "AttnFuserV1" else 0)
    taps = len(glimpse["selected_visual_layers"])
    shapes = _linear("attn_fuser.attn_in_proj", size, len(glimpse["selected_layers"]) * text["num_attention_heads"])
    for index in range(taps):
        name = f"attn_fuser.layers.{index}"
        shapes |= _linear(f"attn_fuser.cond_in_projs.{index}", condition, vision["hidden_size"])
        shapes |= {f"{name}.norm{n}.weight": (size,) for n in (1, 2)}
        for part, width in (("q", both), ("k", both), ("v", size), ("o", size)):
            shapes |= _linear(f"{name}.attn.{part}_proj", width, width, bias=False)
        shapes |= _gated(f"{name}.mlp", size, 2 * size)
        if glimpse["deep_supervision"] or index == taps - 1:
            shapes |= _linear(f"attn_fuser.attn_out_projs.{index}", 1, size)
    if glimpse["le_layers"]:
        shapes["learnable_embeddings"] = (len(glimpse["le_layers"]), glimpse["le_length"], hidden)
        shapes |= _linear("le_proj", hidden, hidden)
        shapes["le_norm.weight"] = (hidden,)
        if glimpse["le_norm_type"] == "layernorm":
            shapes["le_norm.bias"] = (hidden,)
    return shapes


def make_case(
    folder: Path,
    name: str,
    sizes: Sequence[tuple[int, int]] = ((112, 84),),
    *,
    changes: Options | None = None,
    enabled: bool = True,
    mask: bool = False,
    image_last: bool = False,
    steps: int = 6,
) -> Case:
    """Draws images of (width, height), multiples of 28, and a prompt; the reference says what is expected.

    Args:
        folder: a model that ``write_model`` wrote.
        name: the case's name.
        sizes: of the images.
        changes: fields of the adapter config that this request replaces.
        enabled: False for the plain model.
        mask: True gives a random keep mask instead of asking the scorer; one image only.
        image_last: end the prompt with the last image token.
        steps: longest answer.
    """
    reference = Reference(folder)
    changes = dict(changes or {})
    for seed in range(TRIES):
        rng = np.random.default_rng(seed)
        pictures = [_picture(rng, width, height) for width, height in sizes]
        grids = [(height // 28, width // 28) for width, height in sizes]
        ids = _prompt(rng, [rows * columns for rows, columns in grids], image_last)
        keep = rng.random(grids[0]) < 0.5 if mask else None
        pixels = patches(pictures, IMAGE_RULES["image_mean"], IMAGE_RULES["image_std"])
        request = Request(ids, pixels, grids, enabled, keep, changes, steps, IDS_THAT_END)
        arrays = reference.run(request)
        if margin(arrays, {**reference.glimpse, **changes}) >= SAFE:
            break
    else:
        raise AssertionError(f"{name}: no prompt of {TRIES} keeps a margin of {SAFE}")
    files = [f"images/{name}_{index}.png" for index in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        Image.fromarray(picture).save(folder / file)
    settings = {
        "name": name,
        "images": [{"file": file} for file in files],
        "processor_overrides": {},
        "config_overrides": changes,
        "do_selection": enabled,
        "use_ref_masks": mask,
        "max_new_tokens": steps,
        "eos_token_id": list(IDS_THAT_END),
    }
    arrays["input_ids"] = np.array([ids])
    if mask:
        arrays["ref_token_mask"] = keep
    return Case(settings, arrays)


IDS_THAT_END = (491, 490)


def _prompt(rng: np.random.Generator, counts: Sequence[int], image_last: bool) -> list[int]:
    def words(count: int) -> list[int]:
        return rng.integers(0, PLAIN, count).tolist()

    ids = words(4)
    for count in counts:
        ids += [START, *[IDS["image_token_id"]] * count, END, *words(2)]
    return ids[:-3] if image_last else ids + words(3)


def _picture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: squares of random colour with noise."""
    squares = rng.integers(0, 256, (height // 14, width // 14, 3)).repeat(14, 0).repeat(14, 1)
    return np.clip(squares + rng.normal(0, 20, squares.shape), 0, 255).astype(np.uint8)


def _random(name: str, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=rng)
    if "norm" in name or "ln_q" in name:
        return 1 + 0.2 * values if name.endswith("weight") else 0.1 * values
    if name.endswith("bias"):
        return 0.3 * values
    if name == "learnable_embeddings":
        return values
    spread = 0.4 if shape[0] == WORDS else 1.3 / math.sqrt(math.prod(shape[1:]))
    return spread * values


def _linear(name: str, rows: int, columns: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def _gated(name: str, outer: int, inner: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    up = _linear(f"{name}.gate_proj", inner, outer, bias) | _linear(f"{name}.up_proj", inner, outer, bias)
    return up | _linear(f"{name}.down_proj", outer, inner, bias)


def _write_weights(folder: Path, weights: dict[str, Tensor], shards: int) -> None:
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return
    where = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(weights)}
    for file in set(where.values()):
        save_file({name: weights[name] for name in weights if where[name] == file}, folder / file)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})


def _write_adapter(folder: Path, flat: dict[str, Tensor], dtype: torch.dtype) -> None:
    modules: dict[str, Any] = {}
    for name, tensor in flat.items():
        module, _, part = name.partition(".")
        if part:
            modules.setdefault(module, {})[part] = tensor.to(dtype)
        else:
            modules[module] = tensor.to(dtype)
    torch.save(modules, folder / "new_modules_gp.pt")


def _centre(folder: Path, modules: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Shifts and scales the scorer's last projection so that its logits lie around zero with a spread of 1.5."""
    reference = Reference(folder)
    pixels = patches([_picture(np.random.default_rng(0), 168, 140)], [0.4] * 3, [0.25] * 3)
    ids = _prompt(np.random.default_rng(0), [30], image_last=False)
    name = f"attn_fuser.attn_out_projs.{len(reference.glimpse['selected_visual_layers']) - 1}"
    logits = reference.run(Request(ids, pixels, [(5, 6)], steps=1))["mask_logits"][-1]
    scale = 1.5 / float(logits.std())
    modules[f"{name}.weight"] = modules[f"{name}.weight"] * scale
    modules[f"{name}.bias"] = (modules[f"{name}.bias"] - float(np.median(logits))) * scale
    _write_adapter(folder, modules, dtype)


def _write_json(path: Path, data: Options) -> None:
    path.write_text(json.dumps(data, indent=2))
