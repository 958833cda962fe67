"""A LoRA adapter merged into the base while it is read: the arithmetic, and the bundle."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import torch
from safetensors.torch import save_file
from support.bundles import STAGES, options
from support.checkpoints import write_model
from support.commands import Command
from support.files import edit_json
from support.interrupted import interrupt_at_the_end
from support.lora import TARGETS, WEIGHTS, base_weights, edit_lora, merged_by_hand, published, write_lora

from glimpse_export import ExportOptions, OutputError, plan
from glimpse_export.certify import command as command_of
from glimpse_export.exporter import Outcome, carry_out
from glimpse_export.forecast.estimate import estimate
from glimpse_export.forecast.text import describe
from glimpse_export.source.lora.adapter import Lora
from glimpse_export.source.lora.merged import MergedCheckpoint
from glimpse_models import MODELS
from glimpse_models.listing import listing
from glimpse_models.qwen2_5_vl.heavy.family import FAMILY
from glimpse_runtime.bundle.manifest import Manifest
from glimpse_runtime.cli.inspection_text import as_text
from glimpse_runtime.errors import BundleFormatError
from glimpse_runtime.files.hashing import sha256_of
from glimpse_runtime.inspection import inspect

tensor_name = FAMILY.tensor_name

EMBEDDING = "model.language_model.embed_tokens"
EVERYWHERE = (*TARGETS, EMBEDDING, "model.visual.patch_embed.proj", "model.visual.merger.mlp.2")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


def assert_merged(base: Path, lora: Path, scales: dict[str, float]) -> None:
    """Every tensor is, bit by bit, what torch makes of it."""
    expected, read = (
        merged_by_hand(base, lora, scales),
        MergedCheckpoint(base, tensor_name, Lora(lora, tensor_name)).read,
    )
    untouched = base_weights(base)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(read(name), tensor.float().numpy(), err_msg=name, strict=True)
    changed = {name for name, tensor in expected.items() if not torch.equal(tensor, untouched[name])}
    assert changed == {f"{published(module)}.weight" for module in scales}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_those_that_torch_merges(tmp_path: Path, dtype: str, stored: torch.dtype, shards: int) -> None:
    model = write_model(tmp_path / "model", dtype=dtype, shards=shards)
    # So many products that the embedding's sum is one that bfloat16 does not hold, and its own rounding shows.
    wide = {EMBEDDING: 32}
    lora = write_lora(
        tmp_path / "lora", model / "base", EVERYWHERE, dtype=stored, ranks=wide, rank_pattern={"embed_tokens": 32}
    )
    assert_merged(model / "base", lora, {**dict.fromkeys(EVERYWHERE, 2.0), EMBEDDING: 0.25})


def test_modules_have_the_names_of_any_transformers(tiny: Path, tmp_path: Path) -> None:
    new = write_lora(tmp_path / "new", tiny / "base", EVERYWHERE)
    old = write_lora(tmp_path / "old", tiny / "base", tuple(map(published, EVERYWHERE)))
    first, second = (MergedCheckpoint(tiny / "base", tensor_name, Lora(folder, tensor_name)) for folder in (new, old))
    for name in first.shapes:
        np.testing.assert_array_equal(first.read(name), second.read(name))


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({"use_rslora": True}, (4.0, 4.0, 4.0, 4.0)),
        ({"lora_alpha": 2, "r": 4}, (0.5, 0.5, 0.5, 0.5)),
        ({"lora_alpha": ..., "r": 4}, (2.0, 2.0, 2.0, 2.0)),
        ({"alpha_pattern": {"q_proj": 16, r"layers\.\d+.*": 32}}, (4.0, 8.0, 2.0, 2.0)),
        ({"alpha_pattern": {"proj": 16, "model.visual.blocks.1.attn.qkv": 64.0}}, (2.0, 2.0, 16.0, 2.0)),
        ({"alpha_pattern": {"blocks.1.attn": 16, "lm_hea": 16, ".*head": 4}}, (2.0, 2.0, 2.0, 1.0)),
        ({"alpha_pattern": {"lm_head": 4}, "use_rslora": True}, (4.0, 4.0, 4.0, 2.0)),
    ],
    ids=str,
)
def test_scales(tiny: Path, tmp_path: Path, config: dict[str, Any], scales: tuple[float, ...]) -> None:
    lora = write_lora(tmp_path / "lora", tiny / "base", **config)
    assert_merged(tiny / "base", lora, dict(zip(TARGETS, scales, strict=True)))


@pytest.mark.parametrize(("rank_stabilised", "scales"), [(False, (0.5, 2, 4, 8)), (True, (2, 4, 4 * 2**0.5, 8))])
def test_ranks_of_their_own(tiny: Path, tmp_path: Path, rank_stabilised: bool, scales: tuple[float, ...]) -> None:
    patterns = {"q_proj": 16, "qkv": 2, r".*lm_.+": 1}
    ranks = dict(zip(TARGETS, (16, 4, 2, 1), strict=True))
    lora = write_lora(tmp_path / "lora", tiny / "base", ranks=ranks, rank_pattern=patterns, use_rslora=rank_stabilised)
    assert_merged(tiny / "base", lora, dict(zip(TARGETS, scales, strict=True)))
    assert Lora(lora, tensor_name).ranks == (1, 2, 4, 16)


@pytest.mark.parametrize(
    "targets",
    ["all-linear", r".*\.(q_proj|down_proj|qkv)|lm_head", ..., ["q_proj", "mlp.down_proj", *TARGETS[2:], "x"]],
)
def test_targets_in_any_form(tiny: Path, tmp_path: Path, targets: Any) -> None:
    lora = write_lora(tmp_path / "lora", tiny / "base", target_modules=targets, fan_in_fan_out=True)
    assert_merged(tiny / "base", lora, dict.fromkeys(TARGETS, 2.0))


def test_what_was_trained_as_a_whole_takes_the_bases_place(tmp_path: Path) -> None:
    base = write_model(tmp_path / "model", dtype="bfloat16") / "base"
    old = base_weights(base)
    whole = {
        "model.language_model.norm.weight": old["model.norm.weight"].float() + 0.3,
        "model.visual.blocks.1.attn.qkv.base_layer.bias": old["visual.blocks.1.attn.qkv.bias"] * 2,
        f"{EMBEDDING}.base_layer.weight": old["model.embed_tokens.weight"].flip(0),
    }
    lora = write_lora(
        tmp_path / "lora", base, (*TARGETS, EMBEDDING), whole=whole, modules_to_save=["norm"], bias="lora_only"
    )
    read = MergedCheckpoint(base, tensor_name, Lora(lora, tensor_name)).read
    for name, key in (
        ("model.norm.weight", "model.language_model.norm.weight"),
        ("visual.blocks.1.attn.qkv.bias", "model.visual.blocks.1.attn.qkv.base_layer.bias"),
    ):
        np.testing.assert_array_equal(read(name), whole[key].to(torch.bfloat16).float())
    # Beside its LoRA weights, an embedding is saved as it was in training.
    found = read("model.embed_tokens.weight")
    old["model.embed_tokens.weight"] = whole[f"{EMBEDDING}.base_layer.weight"]
    save_file(old, base / "model.safetensors")
    np.testing.assert_array_equal(
        found, merged_by_hand(base, lora, {EMBEDDING: 2.0})["model.embed_tokens.weight"].float()
    )


def runs(rows: int) -> Iterator[tuple[int, int]]:
    start = 0
    for step in (1, 1, 2, 7, 64, 129):
        if start + step < rows:
            yield start, start + step
            start += step
    yield rows - 1, rows


@pytest.mark.parametrize("rank", [1, 3, 64])
def test_a_row_has_the_same_bits_in_whatever_run_it_is_read(tmp_path: Path, rank: int) -> None:
    """The embedding table is read row by row, the head in runs and layers whole, and all are compared bit by bit."""
    base = write_model(tmp_path / "model", text={"intermediate_size": 333}) / "base"
    targets = (EMBEDDING, "model.language_model.layers.0.mlp.gate_proj", "model.language_model.layers.0.mlp.down_proj")
    lora = write_lora(
        tmp_path / "lora", base, targets, ranks=dict.fromkeys(targets, rank), r=rank, target_modules=..., lora_alpha=7.7
    )
    rng = torch.Generator().manual_seed(1)
    edit_lora(lora, lambda t: t.update({key: torch.randn(value.shape, generator=rng) for key, value in t.items()}))
    merged = MergedCheckpoint(base, tensor_name, Lora(lora, tensor_name))
    for module in targets:
        name = f"{published(module)}.weight"
        whole, matrix = merged.read(name), merged.matrix(name)
        for start, stop in runs(len(whole)):
            np.testing.assert_array_equal(merged.read(name, start, stop), whole[start:stop])
            np.testing.assert_array_equal(matrix.read(start, stop), whole[start:stop])


def test_factors_are_read_a_run_at_a_time(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is that of a few rows, also of the embedding's wide factor."""
    lora = Lora(write_lora(tmp_path / "lora", tiny / "base", (EMBEDDING, "lm_head")), tensor_name)
    from glimpse_export.source.tensor_file import TensorFile

    sizes: list[int] = []
    read = TensorFile.read

    def noticing(file: TensorFile, key: str, *index: slice) -> Any:
        part = read(file, key, *index)
        sizes.append(part.size)
        return part

    monkeypatch.setattr(TensorFile, "read", noticing)
    merged = MergedCheckpoint(tiny / "base", tensor_name, lora)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        merged.read(name, 5, 9)
    assert max(sizes) == 4 * 32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bundle_is_that_of_the_merged_checkpoint(tmp_path: Path, dtype: str) -> None:
    model = write_model(tmp_path / "model", dtype=dtype)
    lora = write_lora(tmp_path / "lora", model / "base", EVERYWHERE)
    shutil.copytree(model, tmp_path / "merged")
    weights = merged_by_hand(model / "base", lora, dict.fromkeys(EVERYWHERE, 2.0))
    save_file(weights, tmp_path / "merged" / "base" / "model.safetensors")
    every = {"dialects": ("ort", "opset24"), "certify": "quick"}
    found = carry_out(options(model, lora=str(lora), **every), tmp_path / "found").folder
    expected = carry_out(options(tmp_path / "merged", **every), tmp_path / "expected").folder
    same = {path.name: sha256_of(path) for path in expected.iterdir() if path.suffix in (".data", ".bin", ".onnx")}
    assert len(same) == 15
    assert {name: sha256_of(found / name) for name in same} == same
    plain = carry_out(options(model), tmp_path / "plain").folder
    for name in ("embed_tokens.bin", "vision.data", "text.data"):
        assert sha256_of(plain / name) != same[name]
    certificate = json.loads((found / "certificate.json").read_text())
    assert certificate["passed"]
    assert "--adapter adapter --lora lora --vision-precision" in certificate["command"]


def test_the_bundle_says_what_was_merged(tiny: Path, tmp_path: Path, out: Path) -> None:
    lora = write_lora(tmp_path / "gp-plus", tiny / "base")
    carry_out(options(tiny, lora=str(lora)), out)
    names = ("adapter_config.json", WEIGHTS)
    lines = subprocess.run(["sha256sum", *names], cwd=lora, capture_output=True, check=True).stdout
    digest = hashlib.sha256(lines).hexdigest()
    source = json.loads((out / "manifest.json").read_text())["model"]["source"]
    assert (source["lora"], source["lora_sha256"]) == ("gp-plus", digest)
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    assert f"lora           gp-plus, sha256 {digest}" in as_text(inspect(out))
    assert "gp-plus: 4 matrices of rank 4, merged" in describe(plan(options(tiny, lora=str(lora))))


def test_a_plan_counts_the_merging(tiny: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora", tiny / "base", ranks=dict.fromkeys(TARGETS, 64), r=64)
    without, found = (estimate(plan(options(tiny, **more))) for more in ({}, {"lora": str(lora)}))
    for old, new in zip(without.stages, found.stages, strict=True):
        assert (new.seconds > old.seconds) == (new.name in ("vision", "text"))
        assert new.peak_bytes > old.peak_bytes
        assert new.file_bytes == old.file_bytes
    assert found.hash_seconds > without.hash_seconds


def test_bundles_without_a_lora_are_as_before_there_was_one(tiny: Path, out: Path) -> None:
    """So versions that know of none read them, and theirs are read here."""
    carry_out(options(tiny), out)
    text = (out / "manifest.json").read_text()
    assert set(json.loads(text)["model"]["source"]) == {"base", "base_sha256", "adapter", "adapter_sha256"}
    source = Manifest.from_json(text, "here").model.source
    assert (source.lora, source.lora_sha256) == (None, None)
    assert "\nlora" not in as_text(inspect(out))
    for key, value, message in (("lora", 5, "lora must be of type str"), ("loras", "x", "unknown key")):
        data = json.loads(text)
        data["model"]["source"][key] = value
        with pytest.raises(BundleFormatError, match=message):
            Manifest.from_json(json.dumps(data), "here")


def test_a_changed_adapter_is_exported_again_and_an_unchanged_one_is_not(tiny: Path, tmp_path: Path, out: Path) -> None:
    lora = write_lora(tmp_path / "lora", tiny / "base")

    def run(**changes: Any) -> Outcome:
        return carry_out(options(tiny, **{"lora": str(lora), **changes}), out)

    def is_refused(**changes: Any) -> bool:
        with pytest.raises(OutputError, match="of another model, options or version; replace it with --force"):
            run(**changes)
        return True

    assert run().built == STAGES
    assert run().unchanged
    assert is_refused(lora=None)
    edit_json(lora / "adapter_config.json", lora_alpha=4)
    assert is_refused()
    assert run(force=True).built == STAGES
    edit_lora(lora, lambda tensors: tensors.update({key: 2 * tensor for key, tensor in tensors.items()}))
    assert is_refused()
    assert run(force=True).built == STAGES
    assert run().unchanged


def test_work_of_another_adapter_is_not_taken_over(tiny: Path, tmp_path: Path, out: Path) -> None:
    lora = write_lora(tmp_path / "lora", tiny / "base")
    interrupt_at_the_end(tiny, out, lora=str(lora))
    assert carry_out(options(tiny, lora=str(lora)), out).taken_over == STAGES
    other = tmp_path / "other"
    interrupt_at_the_end(tiny, other, lora=str(lora))
    edit_json(lora / "adapter_config.json", lora_alpha=4)
    assert carry_out(options(tiny, lora=str(lora)), other).built == STAGES
    assert sha256_of(other / "text.data") != sha256_of(out / "text.data")


def test_the_command_takes_one(tiny: Path, tmp_path: Path, command: Command) -> None:
    lora = write_lora(tmp_path / "lora", tiny / "base")
    words = ["--model", tiny / "base", "--adapter", tiny / "adapter", "--lora", lora, "--no-tokenizer"]
    done = command("glimpse_export.cli.export", *words, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "lora: 4 matrices of rank 4, merged" in done.stdout
    done = command("glimpse_export.cli.export", "--bundle", "x", "--target", "tensorrt", "--lora", lora)
    assert (done.returncode, "--lora is for an export, not for --bundle" in done.stderr) == (2, True)


def test_a_named_model_may_have_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, place = Path(str(resources.files("glimpse_models"))), tmp_path / "glimpse_models"
    lora = write_lora(place / "plus", package / "pocket" / "checkpoint" / "base", (TARGETS[0], TARGETS[3]))
    (place / "pocket").symlink_to(package / "pocket")
    facts = dataclasses.replace(MODELS["pocket"], name="pocket-plus", lora="package:plus")
    monkeypatch.setitem(MODELS, "pocket-plus", facts)
    monkeypatch.setattr(resources, "files", lambda name: place)
    planned = plan(ExportOptions("pocket-plus"))
    assert planned.folders.lora_source == "glimpse_models/plus"
    assert planned.lora is not None
    assert list(planned.lora.products) == ["lm_head.weight", "model.layers.0.self_attn.q_proj.weight"]
    assert command_of(planned, "quick").startswith("glimpse-export --model pocket-plus --vision-precision")
    other = plan(ExportOptions("pocket-plus", lora=str(shutil.copytree(lora, tmp_path / "other"))))
    assert command_of(other, "quick").startswith("glimpse-export --model pocket-plus --lora other --vision-precision")
    assert plan(ExportOptions("pocket")).lora is None
    assert "\n  base        package:pocket/checkpoint/base\n  lora        package:plus\n  adapter" in listing()
