"""Writes a checkpoint and adapter of real widths with random weights, for measurements without real weights.

    python benchmarks/make_checkpoint.py DIR [--layers 3] [--vision-depth 3] [--vocab 12672] [--seed 0]

Widths are Qwen2.5-VL-3B's; depth and vocabulary are cut in proportion (defaults: a twelfth). The glimpse sits at two
thirds of the depth as in the published adapter. Tokenizer and special tokens are pocket's, so that questions can be
asked. Weights are distinct and scaled by their fan-in; activations stay sane, answers mean nothing.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors.numpy import save_file

from glimpse_export.adapter import expected_tensors as adapter_tensors
from glimpse_export.architecture import Architecture
from glimpse_export.checkpoint import read_json
from glimpse_export.configuration import read_architecture
from glimpse_export.graphs import decoder, vision
from glimpse_export.resolve import resolve

SHARD_BYTES = 200e6
COPIED = (
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def configs(layers: int, depth: int, vocab: int) -> tuple[dict, dict]:
    """Returns the two ``config.json`` contents."""
    pocket = read_json(resolve("pocket").base / "config.json")
    base = {
        **{key: value for key, value in pocket.items() if key.endswith("_token_id")},
        "model_type": "qwen2_5_vl",
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "max_position_embeddings": 128000,
        "num_attention_heads": 16,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "vocab_size": vocab,
        "vision_config": {
            "depth": depth,
            "fullatt_block_indexes": list(range(depth - 1, -1, -8)),
            "hidden_act": "silu",
            "hidden_size": 1280,
            "in_chans": 3,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
        },
    }
    last_lower = max(layers * 2 // 3 - 1, 0)
    adapter = {
        **base,
        "model_type": "qwen2_5_vl_gp",
        "selected_layers": [last_lower],
        "reduce_layer": last_lower,
        "use_attention_logits": True,
        "selected_visual_layers": list(range(depth - 1, -1, -max(depth // 4, 1)))[:4],
        "attn_fuse_type": "AttnFuserV1",
        "attn_fuse_size": 256,
        "visual_cond_size": 512,
        "attn_fuse_num_heads": 4,
        "attn_fuse_global": True,
        "ori_attn_supervision": False,
        "le_layers": list(range(layers)),
        "le_length": 1,
        "max_remain_ratio": 0.111,
    }
    return base, adapter


def random_tensor(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Returns one weight: norms near 1, biases near 0, matrices scaled by their fan-in."""
    values = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return values * np.float32(0.05) + np.float32("norm" in name or "ln_q" in name)
    return values / np.sqrt(np.float32(np.prod(shape[1:])))


def shards(architecture: Architecture, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the base model's tensors as bfloat16, about a layer at a time."""
    rng = np.random.default_rng(seed)
    shard: dict[str, np.ndarray] = {}
    for name, shape in (decoder.expected_tensors(architecture) | vision.expected_tensors(architecture)).items():
        shard[name] = random_tensor(name, shape, rng).astype(ml_dtypes.bfloat16)
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD_BYTES:
            yield shard
            shard = {}
    yield shard


def write(folder: Path, layers: int = 3, depth: int = 3, vocab: int = 12672, seed: int = 0) -> tuple[Path, Path]:
    """Writes ``base/`` and ``adapter/`` below ``folder`` and returns them."""
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True, exist_ok=True)
    adapter.mkdir(exist_ok=True)
    for name in COPIED:
        shutil.copyfile(resolve("pocket").base / name, base / name)
    processor = read_json(base / "preprocessor_config.json")
    limits = {"min_pixels": 3136, "max_pixels": 12845056}
    kept = {key: value for key, value in processor.items() if key not in (*limits, "size")}
    (base / "preprocessor_config.json").write_text(json.dumps({**kept, **limits}))
    base_config, adapter_config = configs(layers, depth, vocab)
    (base / "config.json").write_text(json.dumps(base_config))
    (adapter / "config.json").write_text(json.dumps(adapter_config))
    generation = read_json(base / "generation_config.json")
    architecture = read_architecture(base_config, adapter_config, generation, "base", "adapter")
    weight_map = {}
    for index, shard in enumerate(shards(architecture, seed)):
        file = f"model-{index + 1:05}.safetensors"
        save_file(shard, base / file)
        weight_map |= dict.fromkeys(shard, file)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    rng = np.random.default_rng(seed + 1)
    modules: dict = {}
    for name, shape in adapter_tensors(architecture).items():
        tensor = torch.from_numpy(random_tensor(name, shape, rng)).to(torch.bfloat16)
        module, _, rest = name.partition(".")
        if rest:
            modules.setdefault(module, {})[rest] = tensor
        else:
            modules[module] = tensor
    torch.save(modules, adapter / "new_modules_gp.pt")
    return base, adapter


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vision-depth", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=12672)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(*write(options.folder, options.layers, options.vision_depth, options.vocab, options.seed))


if __name__ == "__main__":
    main()
