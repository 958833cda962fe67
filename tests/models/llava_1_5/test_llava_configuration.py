"""What LLaVA's configuration files say, in both layouts; and everything that is refused."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from llava_models import GOLDEN, TOWER

pytest.importorskip("onnx_ir")

from glimpse_export.errors import CheckpointError, UnsupportedError
from glimpse_export.model.architecture import Architecture
from glimpse_export.model.family import ModelConfigs, find_family
from glimpse_models.llava_1_5.heavy.architecture import LlavaVision

AUTHORS = {"base": "base", "tower": TOWER, "images": TOWER}
HF = {"base": "base_llava_hf", "images": "base_llava_hf"}
# What the two published configurations say, as far as it matters here.
REAL = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "image_aspect_ratio": "pad",
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "use_mm_proj": True,
    "vocab_size": 32000,
}
REAL_HF = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {"max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05, "vocab_size": 32064},
    "tie_word_embeddings": False,
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}
REAL_ADAPTER = {"model_type": "llava_llama_gp", "image_aspect_ratio": "pad", "rms_norm_eps": 1e-05}


def golden(layout: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The golden model's configuration files in one layout, to change."""
    files = {
        "base": f"{layout['base']}/config.json",
        "generation": f"{layout['base']}/generation_config.json",
        "adapter": "adapter/config.json",
        "images": f"{layout['images']}/preprocessor_config.json",
    }
    files |= {"tower": f"{layout['tower']}/config.json"} if "tower" in layout else {}
    return {key: json.loads((GOLDEN / path).read_text()) for key, path in files.items()}


def read(files: Mapping[str, Any]) -> Architecture:
    configs = ModelConfigs(**files)
    return find_family(configs.base, "config.json").read_architecture(configs)


def rules(files: Mapping[str, Any]) -> Any:
    configs = ModelConfigs(**files)
    family = find_family(configs.base, "config.json")
    return family.read_images(configs, family.read_architecture(configs))


def change(files: Mapping[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Sets a field by its dotted place; ``...`` removes it."""
    changed = copy.deepcopy(dict(files))
    *folders, name = place.split(".")
    target = changed
    for folder in folders:
        target = target.setdefault(folder, {})
    if value is ...:
        target.pop(name, None)
    else:
        target[name] = value
    return changed


def test_both_layouts_are_one_model() -> None:
    ours, theirs = read(golden(AUTHORS)), read(golden(HF))
    assert (ours.tokens.image, theirs.tokens.image) == (512, 512)
    assert (ours.text.vocab_size, theirs.text.vocab_size) == (512, 576)
    assert ours.tokens.eos == theirs.tokens.eos == (2,)
    assert ours.vision == theirs.vision
    assert (ours.glimpse, ours.scorer, ours.pruning) == (theirs.glimpse, theirs.scorer, theirs.pruning)
    assert rules(golden(AUTHORS)) == rules(golden(HF))


def test_hidden_states_become_blocks() -> None:
    vision = read(golden(AUTHORS)).vision
    assert isinstance(vision, LlavaVision)
    # hidden_states 4, 3, 2, 1 and -2 of five blocks, the last of which is left out.
    assert read(golden(AUTHORS)).scorer.taps == (3, 2, 1, 0)
    assert (vision.projected, vision.depth, vision.tower_depth) == (3, 4, 5)
    deeper = change(
        change(golden(AUTHORS), "base.mm_vision_select_layer", 1), "adapter.selected_visual_layers", [-1, 0]
    )
    found = read(deeper)
    assert found.scorer.taps == (4, -1)
    assert (found.vision.projected, found.vision.depth) == (0, 5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("base", [REAL, REAL_HF], ids=["authors", "hf"])
def test_fields_that_the_published_files_leave_out(base: dict[str, Any]) -> None:
    """The class's defaults: rope_theta of both, and of llava-hf all sizes of the decoder."""
    tower = {"model_type": "clip", "vision_config": REAL_HF["vision_config"]} if base is REAL else {}
    found = read({"base": base, "adapter": REAL_ADAPTER, "tower": tower})
    text = found.text
    assert (text.layers, text.hidden_size, text.heads, text.kv_heads) == (32, 4096, 32, 32)
    assert (text.intermediate_size, text.rope_theta, text.rope_sections) == (11008, 10000.0, (64,))
    assert (text.norm_eps, text.max_positions, text.qkv_bias, text.tied) == (1e-5, 4096, False, False)
    assert (found.tokens.image, found.tokens.eos) == (32000, (2,))
    assert found.scorer.taps == (22, 16, 10, 4)
    assert (found.vision.depth, found.vision.tokens) == (23, 576)  # type: ignore[attr-defined]
    assert (found.glimpse.reduce_layer, found.glimpse.selected_layers, found.glimpse.log_softmax) == (21, (21,), True)
    assert (found.glimpse.norm, found.glimpse.norm_eps, found.scorer.window) == ("rmsnorm", 1e-5, None)
    assert (found.scorer.condition_size, found.scorer.attention_row) == (256, True)
    assert (found.pruning.threshold, found.pruning.min_keep, found.pruning.max_keep_ratio) == (0.5, 1, None)


def test_a_base_without_a_vision_config_has_llava_s_tower_and_a_tower_without_fields_clip_s() -> None:
    bare = read({"base": {**REAL_HF, "vision_config": None}, "adapter": REAL_ADAPTER}).vision
    assert bare == read({"base": REAL_HF, "adapter": REAL_ADAPTER}).vision
    clip = {"model_type": "clip_vision_model"}
    small = change({"base": {**REAL, "mm_hidden_size": 768}, "adapter": REAL_ADAPTER, "tower": clip}, "adapter.x", None)
    found = read(change(small, "adapter.selected_visual_layers", [12])).vision
    assert (found.hidden_size, found.patch_size, found.depth, found.tokens) == (768, 32, 12, 49)  # type: ignore[attr-defined]
    assert (found.activation, found.norm_eps) == ("quick_gelu", 1e-5)  # type: ignore[attr-defined]


def test_newer_ways_to_write_the_same() -> None:
    newer = copy.deepcopy(golden(HF))
    base = newer["base"]
    base["image_token_id"] = base.pop("image_token_index")
    base["text_config"]["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "default"}
    base["vision_config"] |= {"image_size": [112, 112], "patch_size": [14, 14]}
    assert read(newer) == read(golden(HF))
    assert read(change(golden(AUTHORS), "base.model_type", "llava_llama")) == read(golden(AUTHORS))
    old = golden(AUTHORS)
    old["tower"]["vision_config_dict"] = old["tower"].pop("vision_config")
    assert read(old) == read(golden(AUTHORS))
    assert read(change(golden(AUTHORS), "tower", old["tower"]["vision_config_dict"])) == read(golden(AUTHORS))


def test_the_image_rules() -> None:
    files = golden(AUTHORS)
    assert rules(files).pad
    assert rules(files).resize_to == (112,)
    for ratio in (..., None, "square"):
        assert not rules(change(files, "adapter.image_aspect_ratio", ratio)).pad
    assert rules(change(files, "images.size", {"shortest_edge": 150})).resize_to == (150,)
    assert rules(change(files, "images.size", {"height": 112, "width": 140})).resize_to == (112, 140)
    assert rules(change(files, "images.crop_size", {"height": 112, "width": 112})) == rules(files)


REFUSED = [
    # the authors' base
    ("base.mm_projector_type", "linear", "mm_projector_type 'linear'"),
    ("base.mm_projector_type", ..., "mm_projector_type 'linear'"),
    ("base.mm_projector_type", "mlp3x_gelu", "mm_projector_type"),
    ("base.mm_vision_select_feature", "cls_patch", "mm_vision_select_feature 'cls_patch'"),
    ("base.mm_vision_select_layer", ..., "no 'mm_vision_select_layer'"),
    ("base.mm_vision_select_layer", [-2, -5], "'mm_vision_select_layer' must be of type int"),
    ("base.mm_vision_select_layer", -7, "-7 is none of the 6 hidden states"),
    ("base.mm_vision_select_layer", 6, "6 is none of the 6 hidden states"),
    ("base.mm_use_im_start_end", True, "mm_use_im_start_end"),
    ("base.mm_use_im_patch_token", True, "mm_use_im_patch_token"),
    ("base.mm_resampler_type", "perceiver", "mm_resampler_type 'perceiver'"),
    ("base.mm_vision_tower", ..., "neither 'mm_vision_tower' nor 'text_config'"),
    ("base.mm_hidden_size", 64, "mm_hidden_size 64 is not the vision tower's hidden_size 48"),
    ("base.s2", True, "s2"),
    ("base.attention_bias", True, "attention_bias"),
    ("base.mlp_bias", True, "mlp_bias"),
    ("base.rope_scaling", {"type": "linear", "factor": 2.0}, "rope type 'linear'"),
    ("base.hidden_act", "swish2", "hidden_act 'swish2'"),
    ("base.head_dim", 32, "head_dim"),
    ("base.num_attention_heads", 5, "do not divide"),
    ("base.quantization_config", {"bits": 4}, "quantization_config"),
    ("generation.num_beams", 2, "num_beams"),
    ("generation.eos_token_id", 600, "eos_token_id"),
    # the tower
    ("tower.model_type", "siglip_vision_model", "vision tower of model_type 'siglip_vision_model'"),
    ("tower.vision_config.hidden_act", "mish", "hidden_act 'mish'"),
    ("tower.vision_config.num_channels", 4, "4 image channels"),
    ("tower.vision_config.num_attention_heads", 5, "do not divide"),
    ("tower.vision_config.image_size", [112, 126], "'image_size' must be one length"),
    ("tower.vision_config.image_size", 8, "image_size 8 is smaller than patch_size 14"),
    # the adapter
    ("adapter.attn_fuse_type", "AttnFuserDummy", "attn_fuse_type 'AttnFuserDummy'"),
    ("adapter.attn_fuse_type", "AttnFuserV2", "attn_fuse_type 'AttnFuserV2'"),
    ("adapter.attn_fuse_global", False, "option 'attn_fuse_global' is not known"),
    ("adapter.le_norm_type", "layernorm", "option 'le_norm_type' is not known"),
    ("adapter.fixed_remain_ratio", 1.2, "fixed_remain_ratio"),
    ("adapter.enable_frame_redundancy_merge", True, "enable_frame_redundancy_merge"),
    ("adapter.selected_layers", [2, 3], "must name one layer"),
    ("adapter.selected_layers", [], "must name one layer"),
    ("adapter.selected_layers", [4], "go beyond reduce_layer"),
    ("adapter.selected_visual_layers", [], "selected_visual_layers is empty"),
    ("adapter.selected_visual_layers", [9], "9 is none of the 6 hidden states"),
    ("adapter.le_layers", [1], "le_layers must contain layer 0"),
    ("adapter.le_length", 0, "le_length be at least 1"),
    ("adapter.use_ref_masks", True, "use_ref_masks"),
    ("adapter.use_zero_masks", True, "use_zero_masks"),
    ("adapter.mm_use_im_start_end", True, "mm_use_im_start_end"),
    ("adapter.anchor_positions", ["middle"], "anchor position 'middle'"),
    ("adapter.hidden_size", 128, "belongs to another base"),
    ("adapter.mm_hidden_size", 1024, "belongs to another base"),
    # images
    ("adapter.image_aspect_ratio", "anyres", "image_aspect_ratio 'anyres'"),
    ("adapter.image_aspect_ratio", "anyres_max_9", "image_aspect_ratio 'anyres_max_9'"),
    ("images.do_center_crop", False, "do_center_crop = false"),
    ("images.do_resize", False, "do_resize = false"),
    ("images.do_pad", True, "do_pad"),
    ("images.resample", 2, "resample 2"),
    ("images.size", 100, "smaller than the crop_size"),
    ("images.size", {"shortest_edge": 112, "longest_edge": 200}, "longest_edge"),
    ("images.crop_size", 98, "crop_size .* is not the vision tower's image_size 112"),
    ("images.image_std", [0.2, 0.0, 0.2], "image_std"),
    ("images.image_mean", [0.2, 1.5, 0.2], "image_mean"),
    ("images", {}, "images is missing"),
]


@pytest.mark.parametrize(("place", "value", "message"), REFUSED, ids=lambda item: str(item)[:40])
def test_refused_in_the_authors_layout(place: str, value: Any, message: str) -> None:
    with pytest.raises((CheckpointError, UnsupportedError), match=message):
        rules(change(golden(AUTHORS), place, value))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("base.vision_feature_select_strategy", "full", "vision_feature_select_strategy 'full'"),
        ("base.vision_feature_layer", [-2, -5], "features of several layers"),
        ("base.multimodal_projector_bias", False, "multimodal_projector_bias = false"),
        ("base.projector_hidden_act", "mish", "'mish'"),
        ("base.text_config.model_type", "mistral", "text_config of model_type 'mistral'"),
        ("base.text_config.tie_word_embeddings", True, "tie_word_embeddings is False there and True"),
        ("base.text_config.attention_bias", True, "attention_bias"),
        ("base.vision_config.model_type", "siglip_vision_model", "vision_config of model_type"),
        ("base.image_token_index", 577, "'image_token_index' must be an id of the vocabulary"),
        ("images.crop_size", {"height": 112, "width": 98}, "crop_size"),
    ],
    ids=lambda item: str(item)[:40],
)
def test_refused_in_the_other_layout(place: str, value: Any, message: str) -> None:
    with pytest.raises((CheckpointError, UnsupportedError), match=message):
        rules(change(golden(HF), place, value))


def test_the_golden_files_are_read_from_their_folders() -> None:
    found = ModelConfigs.read(GOLDEN / "base", GOLDEN / "adapter", GOLDEN / TOWER)
    assert read(golden(AUTHORS)) == find_family(found.base, "x").read_architecture(found)
    assert found.name("images") == str(Path(GOLDEN / TOWER / "preprocessor_config.json"))
