# ruff: noqa: E402
"""Pocket-plus: training under pruning computes what pruned inference computes, and its updates are stored as PEFT's."""

import json
from dataclasses import replace
from random import Random

import pytest
from support.slow import slow

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
for package in ("skimage", "sklearn", "matplotlib"):
    pytest.importorskip(package)

from safetensors.torch import load_file
from support.places import ROOT

from glimpse_models.pocket import train_plus
from glimpse_models.pocket.checkpoint import default_threshold, read_checkpoint
from glimpse_models.pocket.model.config import PocketConfig
from glimpse_models.pocket.model.glimpse import GlimpseModules
from glimpse_models.pocket.model.layout import make_layout, row_positions, text_rotary
from glimpse_models.pocket.model.lora import ALPHA, RANK, TARGETS, Lora
from glimpse_models.pocket.model.model import Pocket, decoder_weights, make_model, patchify
from glimpse_models.pocket.model.pruned import Kept, choose, decode_pruned
from glimpse_models.pocket.training.data import IGNORED, BatchSpec, RowEncoder, draw_batch
from glimpse_models.pocket.training.losses import answer_loss
from glimpse_models.pocket.training.plan import PLUS, Part
from glimpse_models.pocket.training.reference import Reference

CONFIG = PocketConfig()
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def model():
    return make_model(CONFIG, seed=3)


@pytest.fixture(scope="module")
def batch():
    return draw_batch(Random(7), RowEncoder(), BatchSpec(224, 224, 1))


def masks(batch, seed=0, places=5):
    scores = torch.randn(
        *batch.types.shape, batch.relevant[0, 0].numel(), generator=torch.Generator().manual_seed(seed)
    )
    return choose(scores, places / scores.shape[-1], 0.5)


@torch.no_grad()
def test_pruned_rows_give_the_logits_that_masks_give(model, batch):
    """``Reference`` prunes by masks over whole sequences, one question at a time."""
    kept = masks(batch)
    reference = Reference(CONFIG, model, GlimpseModules(CONFIG))
    found = {}
    reference.pocket.logits = lambda hidden: found.setdefault("logits", Pocket.logits(reference.pocket, hidden))
    reference.right(batch, kept.mask(64)[0])
    pocket, encoder = Pocket(CONFIG, model), RowEncoder()
    layout = make_layout(CONFIG, 8, 8, len(encoder.prefix), batch.ids.shape[1], batch.ids.shape[2])
    visual, _ = pocket.encode(patchify(batch.pixels, torch.float32), layout)
    rows = pocket.row(torch.tensor(encoder.prefix), visual, pocket.embed(batch.ids, torch.float32))
    rotary = text_rotary(CONFIG, row_positions(layout))
    hidden = decode_pruned(pocket, pocket.decoder_layers, layout, rotary, rows, batch.last, kept)
    scored = batch.labels[0] != IGNORED
    torch.testing.assert_close(pocket.logits(hidden)[0][scored], found["logits"][scored], atol=2e-4, rtol=2e-4)
    loss, _ = answer_loss(pocket.logits(hidden), batch.labels)
    assert torch.isfinite(loss)


def test_choosing_follows_threshold_cap_and_minimum():
    logits = torch.tensor([[[3.0, -9.0, 2.0, 1.0, -9.0], [-5.0, -4.0, -6.0, -7.0, -8.0]]])
    kept = choose(logits, cap=0.4, threshold=0.5)
    assert kept.mask(5).tolist() == [[[True, False, True, False, False], [False, True, False, False, False]]]
    assert (kept.index[..., 1:] > kept.index[..., :-1]).all()


def test_places_without_a_token_do_not_count(model, batch):
    index = torch.tensor([2, 9, 30]).expand(1, 8, 3)
    one = Kept(index[..., :1], torch.ones(1, 8, 1, dtype=torch.bool))
    padded = Kept(index, torch.tensor([True, False, False]).expand(1, 8, 3))
    pocket, encoder = Pocket(CONFIG, model), RowEncoder()
    layout = make_layout(CONFIG, 8, 8, len(encoder.prefix), 8, batch.ids.shape[2])
    visual, _ = pocket.encode(patchify(batch.pixels, torch.float32), layout)
    rows = pocket.row(torch.tensor(encoder.prefix), visual, pocket.embed(batch.ids, torch.float32))
    rotary = text_rotary(CONFIG, row_positions(layout))
    with torch.no_grad():
        first, second = (
            decode_pruned(pocket, pocket.decoder_layers, layout, rotary, rows, batch.last, kept)
            for kept in (one, padded)
        )
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_updates_start_at_zero_and_are_stored_as_peft_stores_them(model, tmp_path):
    lora = Lora(decoder_weights(model))
    for before, after in zip(decoder_weights(model), lora.merged(decoder_weights(model)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for parameter in lora.up:
        torch.nn.init.normal_(parameter)
    lora.save(tmp_path, "pocket")
    tensors, config = (
        load_file(tmp_path / "adapter_model.safetensors"),
        json.loads((tmp_path / "adapter_config.json").read_text()),
    )
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", RANK, ALPHA)
    merged = lora.merged(decoder_weights(model))
    published = dict(model.named_parameters())
    for layer in range(CONFIG.layers):
        for field, name in TARGETS.items():
            key = f"model.language_model.layers.{layer}.{name}"
            down, up = (tensors.pop(f"base_model.model.{key}.lora_{side}.weight").float() for side in "AB")
            expected = published[f"{key}.weight"] + config["lora_alpha"] / config["r"] * up @ down
            torch.testing.assert_close(getattr(merged[layer], field), expected, atol=2e-2, rtol=2e-2)
    assert not tensors


@slow
def test_the_command_starts_from_pocket_and_leaves_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(train_plus, "PLUS", replace(PLUS, parts=(Part(((112, 112, 2),), 2),)))
    run = tmp_path / "run"
    assert train_plus.main(["--out", str(run), "--steps", "1", "--workers", "1", "--eager"]) == 0
    state = torch.load(run / "state.pt", weights_only=True)
    assert state["done"] == {"plus": 1}
    model, modules = read_checkpoint()
    after = state["weights"]
    for before, name in ((model, "model"), (modules, "glimpse")):
        assert all(torch.equal(tensor, after[name][key]) for key, tensor in before.state_dict().items())
    for key, tensor in modules.state_dict().items():
        assert not torch.equal(tensor, after["plus"][key])
        torch.testing.assert_close(tensor, after["plus"][key], atol=0.02, rtol=0.1)  # one step away
    assert all(tensor.abs().max() > 0 for key, tensor in after["lora"].items() if key.startswith("up"))
    assert load_file(run / "lora" / "adapter_model.safetensors")
    assert (run / "adapter" / "new_modules_gp.pt").is_file()
    assert default_threshold(run) == default_threshold()


def test_a_folder_of_another_training_is_refused(tmp_path, capsys):
    torch.save({"done": {"prepruned": 5}, "weights": {}}, tmp_path / "state.pt")
    with pytest.raises(SystemExit, match="holds a training of prepruned, not of plus; give another --out"):
        train_plus.main(["--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        train_plus.main(["--out", str(tmp_path), "--steps", "0"])
    assert "0 is less than 1" in capsys.readouterr().err


def test_the_shipped_one_exports_with_a_certificate_and_answers(tmp_path):
    pytest.importorskip("onnx_ir")
    pytest.importorskip("onnxruntime")
    from glimpse_export import ExportOptions, export
    from glimpse_runtime import load

    out = export(ExportOptions("pocket-plus", certify="quick"), tmp_path / "plus")
    questions = json.loads((ROOT / "examples" / "questions.json").read_text())
    with load(out) as vlm:
        assert vlm.bundle.manifest.model.name == "pocket-plus"
        assert vlm.bundle.manifest.model.source.lora_sha256
        answers = [vlm.ask(ROOT / "examples" / item["image"], item["question"]) for item in questions]
        right = [answer.text.strip() == item["answer"] for answer, item in zip(answers, questions, strict=True)]
        assert sum(right) >= 0.8 * len(questions)
        assert all(answer.pruning.kept_ratio < 0.25 for answer in answers)
