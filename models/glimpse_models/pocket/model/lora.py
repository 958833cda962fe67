"""Low-rank updates of the decoder's matrices, written as PEFT writes them.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685: W + (alpha / rank) B A.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glimpse_models.pocket.model.model import DecoderLayerWeights

RANK = 16
ALPHA = 32
TARGETS = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""The matrices that change: field of ``DecoderLayerWeights`` and name in a checkpoint."""


class Lora(nn.Module):
    """Updates of all decoder layers; they start at zero."""

    def __init__(self, layers: Sequence[DecoderLayerWeights], seed: int = 0) -> None:
        """Size the updates by the matrices that they change; the same seed gives the same start."""
        super().__init__()
        torch.manual_seed(seed)
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        for weights in layers:
            for field in TARGETS:
                outputs, inputs = getattr(weights, field).shape
                self.down.append(nn.Parameter(torch.randn(RANK, inputs) * inputs**-0.5))
                self.up.append(nn.Parameter(torch.zeros(outputs, RANK)))

    def merged(self, layers: Sequence[DecoderLayerWeights]) -> list[DecoderLayerWeights]:
        """Return the layers' parameters with the updates added."""
        result = []
        for index, weights in enumerate(layers):
            first = index * len(TARGETS)
            changed = {
                field: getattr(weights, field) + ALPHA / RANK * self.up[first + place] @ self.down[first + place]
                for place, field in enumerate(TARGETS)
            }
            result.append(weights._replace(**changed))
        return result

    def save(self, folder: Path, base: str) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``, weights in float16.

        Args:
            folder: Where to write.
            base: What the adapter names as its base model.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        names = list(TARGETS.values())
        for index, (down, up) in enumerate(zip(self.down, self.up, strict=True)):
            layer, place = divmod(index, len(names))
            key = f"base_model.model.model.language_model.layers.{layer}.{names[place]}"
            tensors[f"{key}.lora_A.weight"] = down.detach().half().contiguous()
            tensors[f"{key}.lora_B.weight"] = up.detach().half().contiguous()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "lora_alpha": ALPHA,
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": RANK,
            "target_modules": sorted(name.rpartition(".")[2] for name in names),
            "task_type": "CAUSAL_LM",
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
