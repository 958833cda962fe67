"""LoRA adapters of the tiny models of ``factory``, in the layout that peft's ``save_pretrained`` writes.

Their values are multiples of 1/64, so every product and sum of products is exact in float32: whoever adds it to a
weight gets the same bits, in whatever order.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG = {
    "peft_type": "LORA",
    "base_model_name_or_path": "some/base",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "o_proj", "down_proj", "qkv", "lm_head", "embed_tokens", "mlp.2", "patch_embed.proj"],
    "bias": "none",
    "lora_dropout": 0.1,
    "init_lora_weights": True,
    "use_dora": False,
    "peft_version": "0.21.2",
}
TARGETS = (
    "model.language_model.layers.0.self_attn.q_proj",
    "model.language_model.layers.3.mlp.down_proj",
    "model.visual.blocks.1.attn.qkv",
    "lm_head",
)
"""Modules as transformers 4.52 and later name them."""
WEIGHTS = "adapter_model.safetensors"


def published(module: str) -> str:
    """The module's name in published checkpoints."""
    return module.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def write_lora(
    folder: Path,
    base: Path,
    targets: tuple[str, ...] = TARGETS,
    *,
    dtype: torch.dtype = torch.float32,
    ranks: Mapping[str, int] | None = None,
    whole: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Writes an adapter of some modules.

    Args:
        folder: where to.
        base: the base model's folder.
        targets: the modules.
        dtype: how the weights are stored.
        ranks: of modules whose rank is not 4.
        whole: further tensors by their names without the prefix.
        seed: of the weights.
        config: fields of adapter_config.json that differ from CONFIG; ``...`` removes one.
    """
    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.randint(-8, 9, shape, generator=rng) / 64).to(dtype)

    weights, tensors = base_weights(base), {}
    for module in targets:
        rows, *rest = weights[f"{published(module)}.weight"].shape
        rank, name = (ranks or {}).get(module, 4), f"base_model.model.{module}"
        if module.endswith("embed_tokens"):
            tensors[f"{name}.lora_embedding_A"] = draw(rank, rows)
            tensors[f"{name}.lora_embedding_B"] = draw(*rest, rank)
        else:
            tensors[f"{name}.lora_A.weight"] = draw(rank, *rest)
            tensors[f"{name}.lora_B.weight"] = draw(rows, rank, *[1] * (len(rest) - 1))
    tensors |= {f"base_model.model.{name}": tensor for name, tensor in (whole or {}).items()}
    save_file(tensors, folder / WEIGHTS)
    fields = {key: value for key, value in {**CONFIG, **config}.items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def base_weights(base: Path) -> dict[str, Tensor]:
    """All weights of a base model."""
    return {name: tensor for path in base.glob("*.safetensors") for name, tensor in load_file(path).items()}


def edit_lora(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Changes an adapter's tensors."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def merged_by_hand(base: Path, lora: Path, scales: Mapping[str, float]) -> dict[str, Tensor]:
    """The base's weights with an adapter merged, by torch: W + scale * B @ A in float32, rounded to W's type."""
    weights, tensors = base_weights(base), load_file(lora / WEIGHTS)
    for module, scale in scales.items():
        name, key = f"{published(module)}.weight", f"base_model.model.{module}"
        old = weights[name]
        if module.endswith("embed_tokens"):
            a, b = (tensors[f"{key}.lora_embedding_{factor}"].float() for factor in "AB")
            change = ((b @ a).T * scale).to(old.dtype).float()
        else:
            a, b = (tensors[f"{key}.lora_{factor}.weight"].float().flatten(1) for factor in "AB")
            change = ((b @ a) * scale).reshape(old.shape)
        weights[name] = (old.float() + change).to(old.dtype)
    return weights
