"""Export from files that are good, bad and missing: a whole bundle or one clear error, never half of one."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import torch
from conftest import ROOT, Command, assert_one_clear_line
from safetensors.numpy import load_file, save_file

from glimpse_export import (
    CheckpointError,
    ExportError,
    ExportOptions,
    ModelNotFoundError,
    OutputError,
    UnsupportedError,
    export,
    plan,
)
from glimpse_export.graphs.dialects import DIALECTS
from glimpse_export.image_rules import read_image_rules
from glimpse_export.options import DIALECT_NAMES
from glimpse_runtime import load
from glimpse_runtime.bundle import Bundle, sha256_of
from glimpse_runtime.preprocess import smart_resize

EXPORT = "glimpse_export.cli"


@pytest.fixture
def model(golden: Path, tmp_path: Path) -> Path:
    """A copy of the golden model that a test may spoil."""
    for part in ("base", "adapter"):
        shutil.copytree(golden / part, tmp_path / "model" / part)
    return tmp_path / "model"


def options(model: Path, **changes: Any) -> ExportOptions:
    return ExportOptions(str(model / "base"), str(model / "adapter"), **{"tokenizer": False, **changes})


def edit_json(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    for key, value in changes.items():
        data.pop(key, None) if value is ... else data.update({key: value})
    path.write_text(json.dumps(data))


def edit_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    import ml_dtypes  # noqa: F401

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_two_exports_are_equal_byte_for_byte(model: Path, tmp_path: Path, golden_bundle: Path) -> None:
    again = export(options(model), tmp_path / "again")
    for path in sorted(golden_bundle.iterdir()):
        assert sha256_of(path) == sha256_of(again / path.name), path.name
    assert leftovers(tmp_path) == []


def test_weight_types_and_shards_give_the_same_model(model: Path, tmp_path: Path, golden_bundle: Path) -> None:
    """bfloat16 widens to float32 without loss, so a float32 copy in shards must export to the same weights."""

    def widen(tensors: dict[str, np.ndarray]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].astype(np.float32)

    single = model / "base" / "model.safetensors"
    edit_tensors(single, widen)
    tensors = load_file(single)
    single.unlink()
    names = sorted(tensors)
    weight_map = {}
    for index, part in enumerate((names[::2], names[1::2])):
        file = f"model-{index + 1:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, model / "base" / file)
        weight_map |= dict.fromkeys(part, file)
    (model / "base" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    bundle = export(options(model), tmp_path / "sharded")
    for name in ("text.data", "vision.data", "embed_tokens.bin", "lower.onnx"):
        assert sha256_of(bundle / name) == sha256_of(golden_bundle / name), name
    (model / "base" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        plan(options(model))


def test_untied_head_is_used(model: Path, tmp_path: Path, golden_bundle: Path) -> None:
    edit_json(model / "base" / "config.json", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lacks tensor lm_head\.weight"):
        plan(options(model))

    def add_head(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"] = -tensors["model.embed_tokens.weight"]

    edit_tensors(model / "base" / "model.safetensors", add_head)
    bundle = export(options(model), tmp_path / "untied")
    assert Bundle.open(bundle).manifest.embedding.dtype == "bfloat16"
    seen: list[np.ndarray] = []
    for folder in (golden_bundle, bundle):
        with load(
            folder, trace=lambda name, value: seen.append(value.copy()) if name == "logits_step" else None
        ) as vlm:
            vlm.ask_ids(None, [1, 2, 3], max_new_tokens=1)
    assert np.allclose(seen[0], -seen[1], atol=1e-5)


def test_nested_configuration_and_tensor_names(model: Path, tmp_path: Path, golden_bundle: Path) -> None:
    """Newer writers nest the decoder's fields and the two towers; the model is the same."""
    path = model / "base" / "config.json"
    data = json.loads(path.read_text())
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    keys += ("rms_norm_eps", "vocab_size", "max_position_embeddings", "hidden_act", "rope_scaling", "rope_theta")
    text = {key: data.pop(key) for key in keys}
    text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}
    text |= dict.fromkeys(("head_dim", "image_token_id", "layer_types", "tie_word_embeddings"))  # nulls: not set here
    path.write_text(json.dumps({**data, "text_config": text}))

    def nest(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            new = name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else f"model.{name}"
            tensors[new] = tensors.pop(name)

    edit_tensors(model / "base" / "model.safetensors", nest)
    bundle = export(options(model), tmp_path / "nested")
    assert sha256_of(bundle / "text.data") == sha256_of(golden_bundle / "text.data")


def rope(**changes: Any) -> dict[str, Any]:
    return {"mrope_section": [2, 3, 3], **changes}


CONFIG_MISTAKES: list[tuple[str, dict[str, Any], type[ExportError], str]] = [
    ("base", {"model_type": "llama"}, UnsupportedError, "model_type 'llama'"),
    ("base", {"hidden_size": ...}, CheckpointError, "has no 'hidden_size'"),
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
    ("base", {"rope_theta": ...}, CheckpointError, "has no 'rope_theta'"),
    ("base", {"rope_theta": -1}, CheckpointError, "'rope_theta' must be above 0"),
    ("base", {"rope_theta": 10**400}, CheckpointError, "'rope_theta' must be a finite number"),
    ("base", {"rms_norm_eps": ...}, CheckpointError, "has no 'rms_norm_eps'"),
    ("base", {"rms_norm_eps": 0}, CheckpointError, "'rms_norm_eps' must be above 0"),
    ("base", {"num_key_value_heads": ...}, CheckpointError, "has no 'num_key_value_heads'"),
    ("base", {"num_key_value_heads": None}, CheckpointError, "has no 'num_key_value_heads'"),
    ("base", {"text_config": []}, CheckpointError, "'text_config' must be of type dict"),
    ("base", {"vision_config": None}, CheckpointError, "'vision_config' must be of type dict"),
    ("base", {"tie_word_embeddings": "no"}, CheckpointError, "'tie_word_embeddings' must be of type bool"),
    ("base", {"image_token_id": 512}, CheckpointError, "'image_token_id' must be an id of the vocabulary, 0..511"),
    ("base", {"image_token_id": -1}, CheckpointError, "'image_token_id' must be an id of the vocabulary"),
    ("base", {"eos_token_id": 512}, CheckpointError, "'eos_token_id' must be an id of the vocabulary"),
    ("base", {"layer_types": ["full_attention", "sliding_attention"]}, UnsupportedError, "'sliding_attention'"),
    ("base", {"quantization_config": {"bits": 4}}, UnsupportedError, "quantization_config = {'bits': 4}"),
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
    ("adapter", {"fixed_remain_ratio": 0.1}, UnsupportedError, "option 'fixed_remain_ratio' is not known"),
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
        ({"image_std": [0.5, 0.5, 0]}, CheckpointError, "'image_std' must be above 0"),
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


@pytest.mark.parametrize("tokens", [30, 100, 3584])
def test_large_images_are_shrunk_to_the_profile_and_others_are_left_alone(model: Path, tokens: int) -> None:
    path = model / "base" / "preprocessor_config.json"
    limited = plan(options(model, max_visual_tokens=tokens))
    rules = read_image_rules(json.loads(path.read_text()), limited.architecture.vision, str(path))
    assert limited.images.max_pixels == tokens * 28 * 28
    assert plan(options(model)).images.max_pixels == 3584 * 28 * 28
    rng = np.random.default_rng(0)
    fitting = 0
    for height, width in [(3024, 4032), *rng.integers(28, 3000, (300, 2)), *rng.integers(28, 300, (300, 2))]:
        usual, found = (smart_resize(int(height), int(width), some) for some in (rules, limited.images))
        if usual[0] * usual[1] <= limited.images.max_pixels:
            fitting += 1
            assert found == usual
        elif max(height, width) < tokens * min(height, width):
            assert found[0] * found[1] <= limited.images.max_pixels
    assert fitting > 10


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


def test_repetition_penalty_is_the_checkpoints(model: Path, tmp_path: Path) -> None:
    assert plan(options(model)).architecture.repetition_penalty == 1
    for spelled, expected in ((1.05, 1.05), (2, 2.0), (None, 1.0)):
        edit_json(model / "base" / "generation_config.json", repetition_penalty=spelled)
        assert plan(options(model)).architecture.repetition_penalty == expected
    for wrong in (0, -1, "1.05", [1.05]):
        edit_json(model / "base" / "generation_config.json", repetition_penalty=wrong)
        with pytest.raises(CheckpointError, match=r"generation_config\.json: 'repetition_penalty' must be"):
            plan(options(model))
    edit_json(model / "base" / "generation_config.json", repetition_penalty=1.05)
    assert Bundle.open(export(options(model), tmp_path / "out")).manifest.generation.repetition_penalty == 1.05


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
        plan(options(model, dialect="tpu"))


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


def test_nothing_that_exists_is_lost(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export(options(model), out)
    before = sha256_of(out / "manifest.json")
    with pytest.raises(OutputError, match="--force"):
        export(options(model, max_context=2048), out)
    edit_json(model / "adapter" / "config.json", selected_layers=[])
    with pytest.raises(CheckpointError):
        export(options(model, force=True), out)
    assert sha256_of(out / "manifest.json") == before
    edit_json(model / "adapter" / "config.json", selected_layers=[3], reduce_threshold=0.25)
    export(options(model, force=True), out)
    assert Bundle.open(out).manifest.pruning.threshold == 0.25
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("important")
    with pytest.raises(OutputError, match="is not a bundle"):
        export(options(model, force=True), other)
    assert (other / "thesis.txt").read_text() == "important"
    with pytest.raises(OutputError, match="does not exist"):
        export(options(model), tmp_path / "no" / "where")
    assert leftovers(tmp_path) == []


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_manifest, "it has no manifest.json"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"name": "an app"}'),
            "its manifest.json is not a bundle's",
        ),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "its manifest.json is not a bundle's"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "its manifest.json is not a bundle's"),
        (lambda folder: (folder / "notes.txt").write_text("mine"), "it also holds notes.txt"),
        (lambda folder: (folder / "more").mkdir(), "it also holds more"),
    ],
)
def test_a_folder_that_is_not_only_a_bundle_is_never_replaced(
    model: Path, tmp_path: Path, golden_bundle: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(golden_bundle, out)
    spoil(out)
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(OutputError) as caught:
        export(options(model, force=True), out)
    assert f"exists and is not a bundle ({reason})" in str(caught.value)
    assert sorted(path.name for path in out.iterdir()) == before


def test_a_file_is_never_replaced(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis.txt"
    out.write_text("important")
    for place in (out, out / "inside"):
        with pytest.raises(OutputError, match=r"is not a bundle|does not exist"):
            export(options(model, force=True), place)
    assert out.read_text() == "important"


def test_a_link_is_followed_and_stays(model: Path, tmp_path: Path, golden_bundle: Path) -> None:
    real, link, loop = tmp_path / "real", tmp_path / "link", tmp_path / "loop"
    shutil.copytree(golden_bundle, real)
    link.symlink_to(real)
    edit_json(model / "adapter" / "config.json", reduce_threshold=0.25)
    assert export(options(model, force=True), link) == link
    assert link.is_symlink()
    assert Bundle.open(real).manifest.pruning.threshold == 0.25
    shutil.rmtree(real)
    export(options(model), link)
    assert Bundle.open(real).manifest.pruning.threshold == 0.25
    loop.symlink_to(loop)
    with pytest.raises(OutputError, match="cannot write"):
        export(options(model), loop)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(13, "Permission denied"), KeyboardInterrupt()])
def test_a_failed_replacement_puts_the_old_bundle_back(
    model: Path, tmp_path: Path, golden_bundle: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(golden_bundle, out)
    rename = Path.replace

    def fail_for_the_new_one(path: Path, target: Path) -> Path:
        if path.parent.name == ".bundle.work" and path.name == "bundle":
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", fail_for_the_new_one)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        export(options(model, force=True), out)
    assert Bundle.open(out, verify=True).manifest == Bundle.open(golden_bundle).manifest
    monkeypatch.undo()
    export(options(model, force=True), out)
    assert leftovers(tmp_path) == []


def test_command_dry_run_writes_nothing(command: Command, model: Path, tmp_path: Path) -> None:
    words = ["--model", model / "base", "--adapter", model / "adapter", "--no-tokenizer"]
    done = command(EXPORT, *words, "--dry-run", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for part in ("vision", "lower", "score", "upper", "KV cache", "visual_tokens", "up to 2.8 megapixels"):
        assert part in done.stdout
    assert not (tmp_path / "out").exists()
    done = command(EXPORT, *words, "--out", tmp_path / "out")
    assert done.stdout.strip() == str(tmp_path / "out")
    assert "wrote 4 graphs" in done.stderr
    assert "licence of the weights: unknown" in done.stderr
    done = command(EXPORT, *words, "--out", tmp_path / "out")
    assert done.stdout.strip() == str(tmp_path / "out")
    assert "nothing to do, unchanged" in done.stderr
    assert_one_clear_line(command(EXPORT, *words, "--max-context", "512", "--out", tmp_path / "out"), "--force")


def test_command_mistakes(command: Command) -> None:
    assert_one_clear_line(command(EXPORT, "--model", "poket"), "did you mean pocket?")
    assert_one_clear_line(command(EXPORT), "--model", code=2)
    offline = command(EXPORT, "--model", "nobody/no-such-model", HF_HUB_OFFLINE="1")
    assert_one_clear_line(offline, "cannot download nobody/no-such-model", "give a local folder")
    done = command(EXPORT, "--list")
    assert "qwen2.5-vl-3b" in done.stdout
    assert "Research" in done.stdout


def test_listing_and_help_need_no_extra(command: Command, tmp_path: Path) -> None:
    for name in ("onnx_ir", "onnx", "torch", "safetensors", "ml_dtypes", "jinja2", "huggingface_hub"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name}', name='{name}')")
    path = os.pathsep.join([str(tmp_path), *(str(ROOT / part) for part in ("runtime", "export", "models", "plugins"))])
    for word in ("--help", "--list", "--version"):
        done = command(EXPORT, word, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
    done = command(EXPORT, "--model", "pocket", "--dry-run", PYTHONPATH=path)
    assert_one_clear_line(done, "is not installed", 'pip install "glimpse-edge[export]"')


def test_dialects_of_the_command_are_those_of_the_graphs(command: Command) -> None:
    assert DIALECT_NAMES == DIALECTS
    assert_one_clear_line(command(EXPORT, "--model", "pocket", "--dialect", "tpu"), "'tpu' is not", code=2)


def test_dry_run_sizes_are_those_of_the_files(golden_bundle: Path, model: Path) -> None:
    for name, size in plan(options(model)).weight_bytes().items():
        assert size == (golden_bundle / name).stat().st_size, name
