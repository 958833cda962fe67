"""Models that cannot be exported: each is refused by the name of what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import torch
from support.bundles import options
from support.files import edit_json, edit_tensors, leftovers

from glimpse_export import (
    CheckpointError,
    ExportError,
    ExportOptions,
    ModelNotFoundError,
    UnsupportedError,
    export,
    plan,
)


def rope(**changes: Any) -> dict[str, Any]:
    return {"mrope_section": [2, 3, 3], **changes}


CONFIG_MISTAKES: list[tuple[str, dict[str, Any], type[ExportError], str]] = [
    ("base", {"model_type": "llama"}, UnsupportedError, "model_type 'llama'"),
    ("base", {"hidden_size": ...}, CheckpointError, "must be three sizes that cover half a head, 1024 (hidden_size /"),
    ("base", {"intermediate_size": ...}, CheckpointError, "or intermediate_size in its config.json is wrong"),
    ("base", {"hidden_size": "64"}, CheckpointError, "'hidden_size' must be of type int"),
    ("base", {"use_sliding_window": True}, UnsupportedError, "sliding window"),
    ("base", {"rope_scaling": {"type": "yarn", "mrope_section": [2, 3, 3]}}, UnsupportedError, "rope type 'yarn'"),
    ("base", {"rope_scaling": {"type": "default"}}, CheckpointError, "mrope_section"),
    ("base", {"hidden_act": "swish2"}, UnsupportedError, "hidden_act 'swish2'"),
    ("base", {"num_hidden_layers": 7}, CheckpointError, "num_hidden_layers is 6, the base model has 7"),
    ("base", {"rope_scaling": [1]}, CheckpointError, "'rope_scaling' must be of type dict, found [1]"),
    ("base", {"rope_scaling": rope(type="yarn", rope_type="default")}, UnsupportedError, "rope type 'yarn'"),
    ("base", {"rope_scaling": rope(type="default", rope_type="yarn")}, UnsupportedError, "rope type 'yarn'"),
    ("base", {"rope_parameters": {"rope_type": "yarn"}}, UnsupportedError, "rope type 'yarn'"),
    ("base", {"rope_scaling": rope(mrope_section=["2", 3, 3])}, CheckpointError, "must be a list of integers"),
    ("base", {"rope_scaling": rope(mrope_section=[-1, 6, 3])}, CheckpointError, "must be three sizes"),
    ("base", {"rope_scaling": rope(mrope_section=[4, 4])}, CheckpointError, "must be three sizes"),
    ("base", {"rope_scaling": rope(partial_rotary_factor=0.5)}, UnsupportedError, "partial_rotary_factor"),
    ("base", {"partial_rotary_factor": 0.5}, UnsupportedError, "partial_rotary_factor"),
    ("base", {"rope_theta": -1}, CheckpointError, "'rope_theta' must be above 0"),
    ("base", {"rope_theta": 0.5}, CheckpointError, "rope_theta 0.5 must lie in 1..1e+12"),
    ("base", {"rope_theta": 1e300}, CheckpointError, "must lie in 1"),
    ("base", {"rope_theta": 10**400}, CheckpointError, "'rope_theta' must be a finite number"),
    ("base", {"rms_norm_eps": 0}, CheckpointError, "'rms_norm_eps' must be above 0"),
    ("base", {"num_key_value_heads": ...}, CheckpointError, "num_key_value_heads 8 do not divide"),
    ("base", {"num_key_value_heads": None}, CheckpointError, "or num_key_value_heads in its config.json is wrong"),
    ("base", {"text_config": []}, CheckpointError, "'text_config' must be of type dict"),
    ("base", {"vision_config": []}, CheckpointError, "'vision_config' must be of type dict"),
    ("base", {"vision_config": None}, CheckpointError, "vision out_hidden_size 3584 is not the hidden_size 64"),
    ("base", {"tie_word_embeddings": "no"}, CheckpointError, "'tie_word_embeddings' must be of type bool"),
    ("base", {"image_token_id": 512}, CheckpointError, "'image_token_id' must be an id of the vocabulary, 0..511"),
    ("base", {"image_token_id": -1}, CheckpointError, "'image_token_id' must be an id of the vocabulary"),
    ("base", {"eos_token_id": 512}, CheckpointError, "'eos_token_id' must be an id of the vocabulary"),
    ("base", {"layer_types": ["full_attention", "sliding_attention"]}, UnsupportedError, "'sliding_attention'"),
    ("base", {"quantization_config": {"bits": 4}}, UnsupportedError, "quantised with an unknown method; take"),
    ("base", {"attention_bias": False}, UnsupportedError, "attention_bias = False"),
    ("base", {"eos_token_id": ...}, CheckpointError, "eos_token_id"),
    ("adapter", {"attn_fuse_type": "AttnFuserDummy"}, UnsupportedError, "attn_fuse_type 'AttnFuserDummy'"),
    ("adapter", {"use_ref_masks": True}, UnsupportedError, "use_ref_masks"),
    ("adapter", {"use_zero_masks": True}, UnsupportedError, "use_zero_masks"),
    ("adapter", {"le_norm_type": "batchnorm"}, UnsupportedError, "le_norm_type 'batchnorm'"),
    ("adapter", {"le_layers": [1, 2]}, CheckpointError, "must contain layer 0"),
    ("adapter", {"le_layers": [0, 6]}, CheckpointError, "outside the 6 layers"),
    ("adapter", {"selected_layers": []}, CheckpointError, "selected_layers is empty"),
    ("adapter", {"selected_layers": [4]}, CheckpointError, "beyond reduce_layer 3"),
    ("adapter", {"selected_layers": [1, 1]}, CheckpointError, "repeats a layer"),
    ("adapter", {"selected_visual_layers": [3, 3, 1, 0]}, CheckpointError, "distinct blocks"),
    ("adapter", {"selected_visual_layers": [9]}, CheckpointError, "distinct blocks"),
    ("adapter", {"attn_fuse_num_heads": 5}, CheckpointError, "5 heads"),
    ("adapter", {"attn_fuse_hidden_act": "mish"}, UnsupportedError, "attn_fuse_hidden_act 'mish'"),
    ("adapter", {"anchor_positions": ["middle"]}, UnsupportedError, "anchor position 'middle'"),
    ("adapter", {"reduce_threshold": 1.5}, CheckpointError, "must lie in 0..1"),
    ("adapter", {"max_remain_ratio": "half"}, CheckpointError, "'max_remain_ratio' must be of type float"),
    ("adapter", {"attn_fuse_size": 36}, CheckpointError, "4 heads of a multiple of 4"),
    ("adapter", {"attn_fuse_size": 48}, CheckpointError, "attn_fuser.attn_in_proj"),
    ("adapter", {"vision_config": [32]}, CheckpointError, "'vision_config' must be of type dict"),
    ("adapter", {"rms_norm_eps": 0}, CheckpointError, "'rms_norm_eps' must be above 0"),
    ("adapter", {"min_remain_num": -1}, CheckpointError, "'min_remain_num' must be at least 0, found -1"),
    ("adapter", {"deep_supervision": "x"}, CheckpointError, "'deep_supervision' must be of type bool"),
    ("adapter", {"anchor_positions": [[]]}, UnsupportedError, "anchor position []"),
    ("adapter", {"reduce_treshold": 0.2}, UnsupportedError, "'reduce_treshold' is not known to this version; did you"),
    ("adapter", {"fixed_remain_ratio": 1.5}, CheckpointError, "fixed_remain_ratio 1.5 must lie in 0..1"),
    ("adapter", {"use_second_glimpse": False}, UnsupportedError, "option 'use_second_glimpse' is not known"),
]


@pytest.mark.parametrize(("part", "changes", "kind", "message"), CONFIG_MISTAKES)
def test_what_cannot_be_exported_is_refused_by_name(
    model: Path, part: str, changes: dict[str, Any], kind: type[ExportError], message: str
) -> None:
    edit_json(model / part / "config.json", **changes)
    if "eos_token_id" in changes:
        (model / "base" / "generation_config.json").unlink()
    with pytest.raises(kind) as caught:
        plan(options(model))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\ud800"])
def test_a_configuration_that_is_no_json_object(model: Path, text: str) -> None:
    (model / "base" / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"config\.json (cannot be read|is not a JSON object)"):
        plan(options(model))


def test_fields_that_change_nothing_are_accepted(model: Path) -> None:
    harmless = {"attn_fuse_use_flash_attn": True, "fixed_remain_ratio": None, "le_dropout_prob": 0.1, "use_cache": True}
    edit_json(model / "adapter" / "config.json", **harmless)
    idle = {"suppress_tokens": [], "num_beams": 1, "min_length": 0, "guidance_scale": None, "top_p": 0.5, "top_k": 3}
    edit_json(model / "base" / "generation_config.json", **idle)
    edit_json(
        model / "base" / "config.json", layer_types=["full_attention"] * 6, head_dim=None, quantization_config=None
    )
    edit_json(model / "base" / "preprocessor_config.json", do_pad=None, do_center_crop=False, min_pixels=None)
    plan(options(model))


@pytest.mark.parametrize(
    "changes",
    [
        {"bad_words_ids": [[3]]},
        {"begin_suppress_tokens": [3]},
        {"encoder_no_repeat_ngram_size": 2},
        {"encoder_repetition_penalty": 1.5},
        {"exponential_decay_length_penalty": [2, 1.1]},
        {"forced_bos_token_id": 0},
        {"forced_eos_token_id": 3},
        {"guidance_scale": 1.5},
        {"min_length": 4},
        {"min_new_tokens": 4},
        {"no_repeat_ngram_size": 3},
        {"num_beams": 4},
        {"sequence_bias": [[[3], -1.0]]},
        {"suppress_tokens": [3]},
        {"watermarking_config": {"bias": 2.0}},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_settings_that_change_greedy_decoding_are_refused(model: Path, file: str, changes: dict[str, Any]) -> None:
    """Without generation_config.json, config.json stands for it."""
    if file == "config.json":
        (model / "base" / "generation_config.json").unlink()
    edit_json(model / "base" / file, **changes)
    with pytest.raises(UnsupportedError, match=rf"base/{file}: {next(iter(changes))} = "):
        plan(options(model))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"do_center_crop": True}, UnsupportedError, "do_center_crop = True"),
        ({"do_pad": True}, UnsupportedError, "do_pad = True"),
        ({"do_resize": False}, UnsupportedError, "do_resize = false"),
        ({"resample": 2}, UnsupportedError, "resample 2"),
        ({"image_mean": 0.5}, CheckpointError, "'image_mean' must be of type list"),
        ({"image_mean": ["a", "b", "c"]}, CheckpointError, "'image_mean' must be a list of 3 numbers"),
        ({"image_std": [0.5, 0.5]}, CheckpointError, "'image_std' must be a list of 3 numbers"),
        ({"image_std": [0.5, 0.5, 0]}, CheckpointError, "'image_std' must be in 1e-06..1000"),
        ({"image_std": [0.5, 0.5, 1e-9]}, CheckpointError, "'image_std' must be in 1e-06..1000"),
        ({"image_mean": [0.5, 0.5, 1e9]}, CheckpointError, "'image_mean' must be in -1000..1000"),
        ({"rescale_factor": 2}, CheckpointError, "'rescale_factor' must be at most 1"),
        ({"min_pixels": "3136"}, CheckpointError, "'min_pixels' must be of type int"),
        ({"min_pixels": 0}, CheckpointError, "'min_pixels' must be at least 1"),
        ({"max_pixels": None, "size": 5}, CheckpointError, "'size' must be of type dict"),
        ({"max_pixels": None, "size": {"longest_edge": []}}, CheckpointError, "size: 'longest_edge' must be of type"),
        ({"max_pixels": 100}, CheckpointError, "make no range"),
        ({"rescale_factor": None}, CheckpointError, "'rescale_factor' must be of type float"),
        ({"rescale_factor": "x"}, CheckpointError, "'rescale_factor' must be of type float"),
        ({"patch_size": 16}, CheckpointError, "patch_size 16 is not the vision encoder's 14"),
    ],
)
def test_image_rules_that_cannot_be_followed(
    model: Path, changes: dict[str, Any], kind: type[ExportError], message: str
) -> None:
    edit_json(model / "base" / "preprocessor_config.json", **changes)
    with pytest.raises(kind) as caught:
        plan(options(model))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "message"),
    [("nothing", "has no weight_map"), ({"a": 3}, "gives 3 as the file of a"), ({"a": ["x"]}, "as the file of a")],
)
def test_an_index_that_makes_no_sense(model: Path, part: object, message: str) -> None:
    index = model / "base" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": part}))
    plan(options(model))  # the single file comes first, as in transformers
    (model / "base" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=message):
        plan(options(model))


@pytest.mark.parametrize("error", [IndexError("pop"), AttributeError("no"), TypeError(""), RecursionError()])
def test_whatever_torch_makes_of_a_damaged_file(model: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*unused: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", explode)
    with pytest.raises(CheckpointError, match=r"new_modules_gp\.pt is damaged"):
        plan(options(model))


def test_missing_misshapen_unknown_and_broken_tensors(model: Path, tmp_path: Path) -> None:
    weights = model / "base" / "model.safetensors"
    name = "model.layers.3.mlp.up_proj.weight"
    good = weights.read_bytes()

    def spoil(change: Callable[[dict[str, np.ndarray]], None], message: str) -> None:
        weights.write_bytes(good)
        edit_tensors(weights, change)
        with pytest.raises(CheckpointError, match=message):
            export(options(model), tmp_path / "out")

    spoil(lambda tensors: tensors.__delitem__(name), f"lacks tensor {name}")
    spoil(
        lambda tensors: tensors.update({name: tensors[name].T.copy()}), r"has shape \(64, 128\), its config.json asks"
    )
    spoil(lambda tensors: tensors.update({"model.layers.0.lora_A": tensors[name]}), "lora_A has no place")
    spoil(lambda tensors: tensors.update({name: tensors[name] * np.inf}), f"{name} holds values that are not finite")
    weights.write_bytes(good[: len(good) // 2])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        plan(options(model))
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        plan(options(model))
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == [".out.work"]


def test_broken_adapters(model: Path, golden: Path) -> None:
    path = model / "adapter" / "new_modules_gp.pt"
    modules = torch.load(path, weights_only=True)
    del modules["attn_fuser"]["layers.2.attn.q_proj.weight"]
    torch.save(modules, path)
    with pytest.raises(CheckpointError, match=r"lacks tensor attn_fuser\.layers\.2\.attn\.q_proj\.weight"):
        plan(options(model))
    for content in (b"", b"no zip", (golden / "adapter" / path.name).read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or not a plain weight file"):
            plan(options(model))
    torch.save({"attn_fuser": print}, path)  # a pickled function must not be loaded
    with pytest.raises(CheckpointError, match="not a plain weight file"):
        plan(options(model))
    torch.save({"attn_fuser": {"x": torch.zeros(2, 2, device="meta")}}, path)
    with pytest.raises(CheckpointError, match=r"adapter entry attn_fuser\.x is not a plain tensor"):
        plan(options(model))
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing; name the adapter"):
        plan(options(model))


def test_unknown_models_and_adapters(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"did you mean qwen2\.5-vl-3b\?"):
        plan(ExportOptions("qwen2.5vl-3b"))
    with pytest.raises(ModelNotFoundError, match="give a folder"):
        plan(ExportOptions(str(tmp_path / "none")))
    with pytest.raises(ModelNotFoundError, match="--adapter"):
        plan(ExportOptions(str(model / "base")))
    with pytest.raises(UnsupportedError, match="unknown dialect 'tpu'"):
        plan(options(model, dialects=("tpu",)))


def test_limits_that_make_no_sense(model: Path) -> None:
    with pytest.raises(UnsupportedError, match="more than the model's 4096 positions"):
        plan(options(model, max_context=10_000))
    with pytest.raises(UnsupportedError, match="leaves no room for text"):
        plan(options(model, max_context=256, max_visual_tokens=256))
    with pytest.raises(UnsupportedError, match=r"--max-visual-tokens 3 is less than the model's smallest image, 4"):
        plan(options(model, max_visual_tokens=3))
    for context in (1, 4):
        with pytest.raises(UnsupportedError, match=rf"^--max-context {context} leaves no room for text"):
            plan(options(model, max_context=context))
    assert plan(options(model, max_context=5)).profiles["visual_tokens"].max == 4


def test_a_tokenizer_is_asked_for(model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing.*--no-tokenizer"):
        export(options(model, tokenizer=True), model / "out")
    assert not (model / "out").exists()
