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

from safetensors.numpy import load_file, save_file
from support.bundles import options
from support.commands import Command, assert_one_clear_line
from support.files import edit_json, edit_tensors, leftovers
from support.places import ROOT

from glimpse_export import (
    CheckpointError,
    OutputError,
    export,
    plan,
)
from glimpse_export.graphs.dialects import DIALECTS, dialect
from glimpse_export.write.stages import weight_bytes
from glimpse_models.qwen2_5_vl.heavy.image_rules import read_image_rules
from glimpse_models.qwen2_5_vl.light.patches import smart_resize
from glimpse_runtime import load
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.files.hashing import sha256_of

EXPORT = "glimpse_export.cli.export"


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
            vlm.ask_ids([], [1, 2, 3], max_new_tokens=1)
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


def test_command_dry_run_writes_nothing(command: Command, process: Command, model: Path, tmp_path: Path) -> None:
    words = ["--model", model / "base", "--adapter", model / "adapter", "--no-tokenizer"]
    done = command(EXPORT, *words, "--dry-run", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for part in ("vision", "lower", "score", "upper", "KV cache", "visual_tokens", "up to 2.8 megapixels"):
        assert part in done.stdout
    assert not (tmp_path / "out").exists()
    done = process(EXPORT, *words, "--out", tmp_path / "out")
    assert done.stdout.strip() == str(tmp_path / "out")
    assert "wrote 5 graphs" in done.stderr
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
    assert [dialect(name).name for name in DIALECTS] == list(DIALECTS)
    assert_one_clear_line(command(EXPORT, "--model", "pocket", "--dialect", "tpu"), "'tpu' is not", code=2)


def test_dry_run_sizes_are_those_of_the_files(golden_bundle: Path, model: Path) -> None:
    for name, size in weight_bytes(plan(options(model))).items():
        assert size == (golden_bundle / name).stat().st_size, name
