"""Export from files that are good, bad and missing: a whole bundle or one clear error, never half of one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import torch
from conftest import Command, assert_one_clear_line
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
from glimpse_runtime import load
from glimpse_runtime.bundle import Bundle, sha256_of

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
    path.write_text(json.dumps({**data, "text_config": text}))

    def nest(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            new = name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else f"model.{name}"
            tensors[new] = tensors.pop(name)

    edit_tensors(model / "base" / "model.safetensors", nest)
    bundle = export(options(model), tmp_path / "nested")
    assert sha256_of(bundle / "text.data") == sha256_of(golden_bundle / "text.data")


CONFIG_MISTAKES: list[tuple[str, dict[str, Any], type[ExportError], str]] = [
    ("base", {"model_type": "llama"}, UnsupportedError, "model_type 'llama'"),
    ("base", {"hidden_size": ...}, CheckpointError, "has no 'hidden_size'"),
    ("base", {"hidden_size": "64"}, CheckpointError, "'hidden_size' must be of type int"),
    ("base", {"use_sliding_window": True}, UnsupportedError, "sliding window"),
    ("base", {"rope_scaling": {"type": "yarn", "mrope_section": [2, 3, 3]}}, UnsupportedError, "rope type 'yarn'"),
    ("base", {"rope_scaling": {"type": "default"}}, CheckpointError, "mrope_section"),
    ("base", {"hidden_act": "swish2"}, UnsupportedError, "hidden_act 'swish2'"),
    ("base", {"num_hidden_layers": 7}, CheckpointError, "num_hidden_layers is 6, the base model has 7"),
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


def test_repetition_penalty_is_the_checkpoints(model: Path, tmp_path: Path) -> None:
    assert plan(options(model)).architecture.repetition_penalty == 1
    for spelled, expected in ((1.05, 1.05), (2, 2.0), (None, 1.0)):
        edit_json(model / "base" / "generation_config.json", repetition_penalty=spelled)
        assert plan(options(model)).architecture.repetition_penalty == expected
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
    assert leftovers(tmp_path) == []


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


def test_a_tokenizer_is_asked_for(model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing.*--no-tokenizer"):
        export(options(model, tokenizer=True), model / "out")
    assert not (model / "out").exists()


def test_nothing_that_exists_is_lost(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export(options(model), out)
    before = sha256_of(out / "manifest.json")
    with pytest.raises(OutputError, match="--force"):
        export(options(model), out)
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


def test_a_crash_leaves_nothing_behind(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*unused: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glimpse_export.exporter.build_manifest", explode)
    with pytest.raises(OutputError, match="No space left on device"):
        export(options(model), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    assert leftovers(tmp_path) == []


def test_command_dry_run_writes_nothing(command: Command, model: Path, tmp_path: Path) -> None:
    words = ["--model", model / "base", "--adapter", model / "adapter", "--no-tokenizer"]
    done = command(EXPORT, *words, "--dry-run", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for part in ("vision", "lower", "score", "upper", "KV cache", "visual_tokens"):
        assert part in done.stdout
    assert not (tmp_path / "out").exists()
    done = command(EXPORT, *words, "--out", tmp_path / "out")
    assert done.stdout.strip() == str(tmp_path / "out")
    assert "wrote 4 graphs" in done.stderr
    assert_one_clear_line(command(EXPORT, *words, "--out", tmp_path / "out"), "--force")


def test_command_mistakes(command: Command) -> None:
    assert_one_clear_line(command(EXPORT, "--model", "poket"), "did you mean pocket?")
    assert_one_clear_line(command(EXPORT), "--model", code=2)
    offline = command(EXPORT, "--model", "nobody/no-such-model", HF_HUB_OFFLINE="1")
    assert_one_clear_line(offline, "cannot download nobody/no-such-model", "give a local folder")
    done = command(EXPORT, "--list")
    assert "qwen2.5-vl-3b" in done.stdout
    assert "Research" in done.stdout


def test_dry_run_sizes_are_those_of_the_files(golden_bundle: Path, model: Path) -> None:
    planned = plan(options(model)).weight_bytes()
    for name, size in planned.items():
        found = (golden_bundle / name).stat().st_size
        assert size <= found < size + 4096 * 200, name  # the rest is alignment, at most a page per tensor
