"""Checkpoints as transformers and the trainers built on it write them; transformers itself is the oracle."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from support.files import edit_json
from tokenizers import Tokenizer as HFTokenizer
from written_forms import (
    BASE,
    CONVERSATIONS,
    FORMS,
    RECORDED,
    TEXTS,
    VERSIONS,
    form,
    messages,
    options,
    put,
    rendered,
    write,
)

from glimpse_export import CheckpointError, UnsupportedError, export, plan
from glimpse_export.source.template import compose
from glimpse_models.qwen2_5_vl.heavy import configuration
from glimpse_runtime.inputs.family import open_family
from glimpse_runtime.inputs.prompt import build_prompt
from glimpse_runtime.inputs.tokenizer import Tokenizer


@pytest.fixture(params=FORMS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint in every form."""
    return form(tmp_path / "base", request.param)


def test_configuration(folder: Path) -> None:
    """The same model in every form, and the sizes that transformers' own classes read."""
    found = plan(options(folder)).architecture
    ends = transformers.GenerationConfig.from_pretrained(folder).eos_token_id
    tokens = dataclasses.replace(found.tokens, eos=tuple(ends) if isinstance(ends, list) else (ends,))
    assert found == dataclasses.replace(plan(options(BASE)).architecture, tokens=tokens)
    check_sizes(found, folder)


def test_pixel_rules(folder: Path) -> None:
    processor = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    theirs = processor.Qwen2VLImageProcessorPil.from_pretrained(folder)
    rules = plan(options(folder)).images
    assert (rules.min_pixels, rules.max_pixels) == (theirs.size["shortest_edge"], theirs.size["longest_edge"])
    assert (rules.mean, rules.std) == (tuple(theirs.image_mean), tuple(theirs.image_std))
    assert rules.rescale_factor == theirs.rescale_factor
    for name in ("patch_size", "temporal_patch_size", "merge_size"):
        assert getattr(rules, name) == getattr(theirs, name)


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_rendered_prompts(folder: Path, turns: list[tuple[str, ...]]) -> None:
    pieces = plan(options(folder)).prompt
    assert pieces is not None
    assert compose(pieces, messages(turns)) == rendered(folder, turns)


def test_the_bundle_has_transformers_tokens(folder: Path, tmp_path: Path) -> None:
    bundle = export(options(folder), tmp_path / "bundle")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = HFTokenizer.from_file(str(bundle / "tokenizer.json"))
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False).ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert {token.content: index for index, token in ours.get_added_tokens_decoder().items()} == {
        str(token): index for index, token in theirs.added_tokens_decoder.items()
    }
    from glimpse_runtime.bundle.bundle import Bundle

    manifest = Bundle.open(bundle).manifest
    assert manifest.prompt is not None
    for question in TEXTS:
        prompt = build_prompt(
            Tokenizer(bundle / "tokenizer.json"), manifest.prompt, manifest.tokens, open_family(manifest), question, []
        )
        expected = theirs(rendered(folder, [("user", question)]), add_special_tokens=False)["input_ids"]
        assert prompt.ids.tolist() == expected


@pytest.mark.slow
def test_certified(folder: Path, tmp_path: Path) -> None:
    export(options(folder, certify="quick"), tmp_path / "bundle")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_configuration_near_the_defaults(version: str) -> None:
    """What each version writes of a model most of whose fields equal the defaults of its classes."""
    place = RECORDED / version / "defaults"
    found = read(json.loads((place / "config.json").read_text()))
    assert found == read(json.loads((RECORDED / "transformers-5.24" / "defaults" / "config.json").read_text()))
    check_sizes(found, place)


@pytest.mark.parametrize("is_nested", [False, True])
def test_fields_of_the_defaults_may_be_left_out(is_nested: bool) -> None:
    whole = transformers.Qwen2_5_VLConfig(
        text_config={"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    )
    text, vision = whole.text_config, whole.vision_config
    for key, value in configuration.TEXT_DEFAULTS.items():
        theirs = text.rope_parameters["rope_theta"] if key == "rope_theta" else getattr(text, key)
        assert theirs == value, key
    for key, value in configuration.VISION_DEFAULTS.items():
        theirs = getattr(vision, key)
        assert (list(theirs) if isinstance(theirs, (list, tuple)) else theirs) == value, key
    for key, value in configuration.TOKEN_DEFAULTS.items():
        assert getattr(whole, key) == value, key
    rope = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    small: dict[str, Any] = {"vision_config": {"out_hidden_size": 8192}}
    bare = {"model_type": "qwen2_5_vl", **small, **({"text_config": rope} if is_nested else rope)}
    found = read(bare, adapter={"selected_layers": [3], "reduce_layer": 3})
    assert (found.text.hidden_size, found.text.kv_heads, found.text.norm_eps) == (8192, 8, 1e-5)
    assert (found.vision.depth, found.vision.hidden_size) == (32, 3584)
    assert (found.tokens.image, found.tokens.video, found.tokens.eos) == (151655, 151656, (151645,))


def test_null_stands_for_as_many_key_heads_as_query_heads() -> None:
    config = json.loads((RECORDED / "transformers-5.24" / "defaults" / "config.json").read_text())
    config["text_config"]["num_key_value_heads"] = None
    assert transformers.Qwen2_5_VLConfig(**config).text_config.num_key_value_heads == read(config).text.kv_heads == 8


def test_text_fields_at_the_top_do_not_count_beside_a_text_config() -> None:
    config = json.loads((RECORDED / "transformers-5.24" / "defaults" / "config.json").read_text())
    assert read({**config, "rms_norm_eps": 0.5, "intermediate_size": 1}) == read(config)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"intermediate_size": ...}, "intermediate_size"),
        ({"num_hidden_layers": ...}, "num_hidden_layers"),
        ({"vocab_size": 440}, "vocab_size"),
    ],
)
def test_a_default_that_is_not_meant_is_named_by_its_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    edit_json(
        base / "config.json",
        **changes,
        **({"image_token_id": 400, "video_token_id": 401} if "vocab_size" in changes else {}),
    )
    with pytest.raises(CheckpointError, match=f"(or {field} in its config.json is wrong|{field} is )"):
        plan(options(base, tokenizer=False))


QUANTISED = [
    ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
    ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
    ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
    ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ({"quantization_config": {"quant_method": "something-new"}}, "something-new"),
    ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "AWQ"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
]


@pytest.mark.parametrize(("config", "method"), QUANTISED)
def test_quantised_checkpoints_are_refused_by_the_method(tmp_path: Path, config: dict[str, Any], method: str) -> None:
    base = write(tmp_path / "base", "transformers-5.24")
    edit_json(base / "config.json", **config)
    with pytest.raises(UnsupportedError, match=f"quantised with {method}; take the unquantised .* --precision int4"):
        plan(options(base))


def test_a_shard_that_lies_outside(tmp_path: Path) -> None:
    base = write(tmp_path / "base", "transformers-5.24")
    (base / "model.safetensors").unlink()
    (tmp_path / "outside.safetensors").write_bytes(b"")
    for name in ("../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..\\outside.safetensors"):
        put(base / "model.safetensors.index.json", {"weight_map": {"model.norm.weight": name}})
        with pytest.raises(CheckpointError, match="lies outside the folder; put the file into the folder"):
            plan(options(base))


def read(base: dict[str, Any], adapter: dict[str, Any] | None = None) -> Any:
    from glimpse_export.model.family import ModelConfigs

    chosen = {"selected_layers": [1], "reduce_layer": 1, "selected_visual_layers": [3], "attn_fuse_global": True}
    return configuration.read_architecture(ModelConfigs(base, {**chosen, **(adapter or {})}))


def check_sizes(found: Any, folder: Path) -> None:
    theirs = transformers.AutoConfig.from_pretrained(folder)
    text, vision = theirs.text_config, theirs.vision_config
    expected = {
        "layers": text.num_hidden_layers,
        "hidden_size": text.hidden_size,
        "heads": text.num_attention_heads,
        "kv_heads": text.num_key_value_heads,
        "intermediate_size": text.intermediate_size,
        "vocab_size": text.vocab_size,
        "norm_eps": text.rms_norm_eps,
        "activation": text.hidden_act,
        "rope_theta": text.rope_parameters["rope_theta"],
        "rope_sections": tuple(text.rope_parameters["mrope_section"]),
        "max_positions": text.max_position_embeddings,
        "tied": theirs.tie_word_embeddings,
    }
    assert {key: value for key, value in dataclasses.asdict(found.text).items() if key in expected} == expected
    assert (found.vision.depth, found.vision.heads, found.vision.hidden_size) == (
        vision.depth,
        vision.num_heads,
        vision.hidden_size,
    )
    assert (found.vision.window_size, list(found.vision.full_attention)) == (
        vision.window_size,
        list(vision.fullatt_block_indexes),
    )
    assert (found.tokens.image, found.tokens.video) == (theirs.image_token_id, theirs.video_token_id)
