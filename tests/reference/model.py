"""GlimpsePrune on Qwen2.5-VL in plain torch: an independent reading of the algorithm for the tests.

Written from the published description and file formats; shares no code with the packages under test. It aims to be
obviously right, not fast: windows and images are N x N masks over all images at once, nothing is permuted, every
request recomputes everything. One prompt, float32, greedy. Arrays carry the names of tests/golden/FORMAT.md.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor

from reference.parts import attend, choose, frequencies, plane_angles, rotate
from reference.places import MERGE, Places

ACTIVATIONS = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@dataclass
class Request:
    """One prompt: ids, patches, merged (rows, columns) of each image, and how to prune.

    ``entered`` names the visual tokens, of all images in order, that enter layer 0; None is all of them.
    """

    ids: Sequence[int]
    pixel_values: Tensor
    grids: list[tuple[int, int]]
    enabled: bool = True
    keep_mask: np.ndarray | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    steps: int = 16
    eos: Sequence[int] = ()
    entered: np.ndarray | None = None


class Reference:
    """A model folder with base/ and adapter/."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "base" / "config.json").read_text())
        self.glimpse = json.loads((folder / "adapter" / "config.json").read_text())
        self.w: dict[str, Tensor] = {}
        for path in sorted((folder / "base").glob("*.safetensors")):
            self.w |= {name: tensor.float() for name, tensor in load_file(path).items()}
        modules = torch.load(folder / "adapter" / "new_modules_gp.pt", map_location="cpu", weights_only=True)
        for name, value in modules.items():
            parts = value if isinstance(value, dict) else {"": value}
            self.w |= {f"{name}.{part}".rstrip("."): tensor.float() for part, tensor in parts.items()}
        self.heads = self.config["num_attention_heads"]
        self.layers = self.config["num_hidden_layers"]
        self.size = self.config["hidden_size"] // self.heads
        self.last_lower = min(self.glimpse["reduce_layer"], self.layers - 1)
        self.last_rows = torch.zeros(0)
        self.received = torch.zeros(0)

    @torch.no_grad()
    def run(self, request: Request) -> dict[str, np.ndarray]:
        """Answers one prompt and returns every array that FORMAT.md names; one thread is fastest for tiny models."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._run(request)
        finally:
            torch.set_num_threads(threads)

    def _run(self, request: Request) -> dict[str, np.ndarray]:
        out: dict[str, Any] = {}
        ids = torch.tensor(list(request.ids))
        is_image = ids == self.config["image_token_id"]
        x = self.w["model.embed_tokens.weight"][ids]
        places = Places.of(request.grids, self.config["vision_config"])
        if request.grids:
            out |= places.arrays()
            embeds, taps = self.see(request.pixel_values, places)
            x[is_image] = embeds
            out |= {"pixel_values": request.pixel_values, "image_embeds": embeds, "visual_features": taps}
        positions = self.positions(ids, request.grids)
        out |= {"position_ids": positions[:, None], "rope_deltas": (positions.max() + 1 - len(ids)).reshape(1, 1)}
        if request.entered is not None:
            rows = ~is_image
            rows[is_image] = torch.tensor(request.entered)
            ids, x, positions, places = ids[rows], x[rows], positions[:, rows], places.only(request.entered)
        cache: list[Tensor | None] = [None] * self.layers
        if request.enabled and request.grids:
            x, positions = self.prefill_and_prune(request, ids, x, positions, places, cache, out)
            upper = range(self.last_lower + 1, self.layers)
        else:
            upper = range(self.layers)
        rows = []
        for layer in upper:
            x = self.layer(layer, x, positions, cache)[0]
            rows.append(x[-1])
        if request.enabled and request.grids:
            out["upper_last_hidden"] = torch.stack(rows) if rows else torch.zeros(0, x.shape[-1])
            out["final_hidden_last"] = self.final(x[-1])
            kept = {"first": 0, "last": self.last_lower, "upper": self.last_lower + 1}
            for label, layer in kept.items():
                if layer < self.layers:
                    out[f"kv_k_{label}"], out[f"kv_v_{label}"] = cache[layer]
        follow = positions[:, -1] + 1 if request.enabled and request.grids else positions.max() + torch.ones(3).long()
        out |= self.generate(request, self.logits(x[-1]), follow, cache)
        return {name: value.numpy() for name, value in out.items()}

    def prefill_and_prune(
        self,
        request: Request,
        ids: Tensor,
        x: Tensor,
        positions: Tensor,
        places: Places,
        cache: list[Tensor | None],
        out: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Layers 0..K with the glimpse rows, the keep decision, and what is left of states, positions and cache."""
        g, count = self.glimpse, len(ids)
        is_image = ids == self.config["image_token_id"]
        scored = request.keep_mask is None
        length = g["le_length"] if scored and g["le_layers"] else 0
        if length:
            start = positions[-1, -1] + 1
            extra = torch.arange(start, start + length).repeat(3, 1)
            out["glimpse_position_ids"] = extra
            positions = torch.cat([positions, extra], 1)
            x = torch.cat([x, torch.zeros(length, x.shape[1])])
        seen: dict[int, Tensor] = {}
        rows_seen: dict[int, Tensor] = {}
        states = []
        for layer in range(self.last_lower + 1):
            if length and layer in g["le_layers"]:
                x[count:] += self.glimpse_vectors()[g["le_layers"].index(layer)]
            x, scores = self.layer(layer, x, positions, cache)
            states.append(x[count:].clone())
            rows_seen[layer] = scores
            seen[layer] = scores[:, is_image.nonzero().flatten()].T
        self.last_rows = torch.stack([rows_seen[layer] for layer in g["selected_layers"]])
        if scored:
            maps = torch.stack([seen[layer] for layer in g["selected_layers"]], 1)
            mask_logits, vip = self.importance(maps, out["visual_features"][:, places.number], places)
            out |= {"attn_logits": maps, "mask_logits": mask_logits, "vip_hidden": vip}
            if length:
                out["glimpse_hidden_layers"] = torch.stack(states)
            probability = torch.sigmoid(mask_logits[-1])
        else:
            probability = torch.tensor(request.keep_mask).flatten().float()[places.number]
        everywhere = torch.full((sum(rows * columns for rows, columns in request.grids),), -1.0)
        everywhere[places.number] = probability
        keep = choose(everywhere, {**g, **request.changes}, request.grids)
        rows = ~is_image
        rows[is_image] = keep[places.number]
        x, positions = x[:count], positions[:, :count]
        for layer in range(self.last_lower + 1):
            cache[layer] = cache[layer][:, :, :count][:, :, rows]
        out |= {
            "keep_mask": keep,
            "remain_mask": rows,
            "hidden_reduce": x,
            "hidden_compact": x[rows],
            "reduced_input_ids": ids[None, rows],
            "reduced_position_ids": positions[:, None, rows],
        }
        return x[rows], positions[:, rows]

    def generate(self, request: Request, logits: Tensor, position: Tensor, cache: list[Any]) -> dict[str, Tensor]:
        """Greedy tokens; every step sees all of the cache."""
        steps, tokens, places, lengths = [logits], [int(logits.argmax())], [], []
        while len(tokens) < request.steps and tokens[-1] not in request.eos:
            places.append(position.clone())
            lengths.append(cache[0].shape[2])
            x = self.w["model.embed_tokens.weight"][tokens[-1:]]
            for layer in range(self.layers):
                x = self.layer(layer, x, position[:, None], cache)[0]
            steps.append(self.logits(x[-1]))
            tokens.append(int(steps[-1].argmax()))
            position = position + 1
        return {
            "logits_first": steps[0],
            "logits_steps": torch.stack(steps),
            "generated_ids": torch.tensor(tokens),
            "decode_position_ids": torch.stack(places) if places else torch.zeros(0, 3).long(),
            "decode_past_len": torch.tensor(lengths).long(),
        }

    def layer(self, index: int, x: Tensor, positions: Tensor, cache: list[Any]) -> tuple[Tensor, Tensor]:
        """One decoder layer; also the last row's attention to every key, (heads, keys)."""
        name, rows = f"model.layers.{index}", len(x)
        y = self.rms(x, f"{name}.input_layernorm", self.config["rms_norm_eps"])
        split = [self.linear(y, f"{name}.self_attn.{p}_proj").view(rows, -1, self.size).transpose(0, 1) for p in "qkv"]
        angles = self.text_angles(positions)
        q, k, v = rotate(split[0], angles), rotate(split[1], angles), split[2]
        new = torch.stack([k, v])
        cache[index] = new if cache[index] is None else torch.cat([cache[index], new], 2)
        group = self.heads // cache[index].shape[1]
        keys, values = cache[index].repeat_interleave(group, 1)
        scores = q @ keys.transpose(1, 2) / math.sqrt(self.size)
        last = scores[:, -1] if self.glimpse["use_attention_logits"] else scores[:, -1].log_softmax(-1)
        causal = torch.ones(scores.shape[1:], dtype=torch.bool).tril(scores.shape[2] - rows)
        mixed = scores.masked_fill(~causal, -math.inf).softmax(-1) @ values
        x = x + self.linear(mixed.transpose(0, 1).reshape(rows, -1), f"{name}.self_attn.o_proj")
        y = self.rms(x, f"{name}.post_attention_layernorm", self.config["rms_norm_eps"])
        return x + self.mlp(y, f"{name}.mlp", self.config["hidden_act"]), last

    def see(self, pixels: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """The vision encoder: (tokens, hidden) embeddings and (taps, tokens, vision hidden) features."""
        c = self.config["vision_config"]
        width, heads = c["hidden_size"], c["num_heads"]
        x = pixels @ self.w["visual.patch_embed.proj.weight"].reshape(width, -1).T
        angles = plane_angles(places.patch_rows, places.patch_columns, width // heads)
        outputs = []
        for block in range(c["depth"]):
            name = f"visual.blocks.{block}"
            y = self.rms(x, f"{name}.norm1", 1e-6)
            parts = self.linear(y, f"{name}.attn.qkv").view(len(x), 3, heads, -1).permute(1, 2, 0, 3)
            mask = places.same_image if block in c["fullatt_block_indexes"] else places.same_window
            if block in c["fullatt_block_indexes"]:
                q, k = (rotate(part, angles) for part in parts[:2])
                own = places.for_patches(mask)
                scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(~own, -math.inf)
                mean = scores.softmax(-1).mean(0).sum(0) / own.sum(0)
                self.received = mean.view(-1, MERGE**2).sum(1)
            mixed = attend(rotate(parts[0], angles), rotate(parts[1], angles), parts[2], places.for_patches(mask))
            x = x + self.linear(mixed, f"{name}.attn.proj")
            x = x + self.mlp(self.rms(x, f"{name}.norm2", 1e-6), f"{name}.mlp", c["hidden_act"])
            outputs.append(x.view(-1, MERGE**2, width).mean(1))
        merged = self.rms(x, "visual.merger.ln_q", 1e-6).reshape(-1, MERGE**2 * width)
        embeds = self.linear(F.gelu(self.linear(merged, "visual.merger.mlp.0")), "visual.merger.mlp.2")
        return embeds, torch.stack([outputs[tap] for tap in self.glimpse["selected_visual_layers"]])

    def importance(self, maps: Tensor, taps: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """The visual importance predictor: (rows, tokens) with the deciding row last, and its states."""
        g, heads = self.glimpse, self.glimpse["attn_fuse_num_heads"]
        flat = maps.flatten(1)
        x = self.linear(flat, "attn_fuser.attn_in_proj")
        mask = places.same_image if g["attn_fuse_global"] else places.same_window
        states = [x]
        for index, tap in enumerate(taps):
            name = f"attn_fuser.layers.{index}"
            y = self.rms(x, f"{name}.norm1", 1e-6)
            both = y
            if g["attn_fuse_type"] == "AttnFuserV1":
                both = torch.cat([y, self.linear(tap, f"attn_fuser.cond_in_projs.{index}")], -1)
            inputs = {"q": both, "k": both, "v": y}
            q, k, v = (
                self.linear(part, f"{name}.attn.{p}_proj").view(len(x), heads, -1).transpose(0, 1)
                for p, part in inputs.items()
            )
            angles = plane_angles(places.rows, places.columns, q.shape[-1])
            mixed = attend(rotate(q, angles), rotate(k, angles), v, mask)
            x = x + self.linear(mixed, f"{name}.attn.o_proj")
            x = x + self.mlp(self.rms(x, f"{name}.norm2", 1e-6), f"{name}.mlp", g["attn_fuse_hidden_act"])
            states.append(x)
        rows = [self.linear(x, f"attn_fuser.attn_out_projs.{len(taps) - 1}").squeeze(-1)]
        if g["ori_attn_supervision"]:
            rows.insert(0, self.plain_attention(flat.mean(1), places))
        return torch.stack(rows), torch.stack(states)

    def plain_attention(self, mean: Tensor, places: Places) -> Tensor:
        """The mean attention of each image, stretched to 0..1."""
        parts = []
        for image in range(len(places.grids)):
            part = mean[places.image == image]
            part = part.softmax(0) if self.glimpse["use_attention_logits"] else part.exp()
            parts.append((part - part.min()) / (part.max() - part.min() + 1e-6))
        return torch.cat(parts)

    def glimpse_vectors(self) -> Tensor:
        """(listed layers, length, hidden)."""
        x = self.linear(self.w["learnable_embeddings"], "le_proj")
        if self.glimpse["le_norm_type"] == "rmsnorm":
            return self.rms(x, "le_norm", self.glimpse["rms_norm_eps"])
        return F.layer_norm(x, x.shape[-1:], self.w["le_norm.weight"], self.w["le_norm.bias"], 1e-5)

    def positions(self, ids: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
        """(3, tokens): time, row, column."""
        out: list[tuple[int, int, int]] = []
        left, index = list(grids), 0
        while index < len(ids):
            following = max((max(p) for p in out), default=-1) + 1
            if ids[index] == self.config["image_token_id"]:
                rows, columns = left.pop(0)
                out += [(following, following + r, following + c) for r in range(rows) for c in range(columns)]
            else:
                out.append((following, following, following))
            index = len(out)
        return torch.tensor(out).T

    def text_angles(self, positions: Tensor) -> Tensor:
        """(tokens, head size / 2): each frequency follows one of the three axes."""
        section = self.config["rope_scaling"]["mrope_section"]
        axis = torch.tensor([a for a in range(3) for _ in range(section[a])], dtype=torch.long)
        return positions[axis].T.float() * frequencies(self.size, self.config["rope_theta"])

    def logits(self, x: Tensor) -> Tensor:
        """Word scores of one row of the last layer."""
        head = "model.embed_tokens.weight" if self.config["tie_word_embeddings"] else "lm_head.weight"
        return self.w[head] @ self.final(x)

    def final(self, x: Tensor) -> Tensor:
        return self.rms(x, "model.norm", self.config["rms_norm_eps"])

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def rms(self, x: Tensor, name: str, eps: float) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * self.w[f"{name}.weight"]

    def mlp(self, x: Tensor, name: str, activation: str) -> Tensor:
        gate = ACTIVATIONS[activation](self.linear(x, f"{name}.gate_proj"))
        return self.linear(gate * self.linear(x, f"{name}.up_proj"), f"{name}.down_proj")
