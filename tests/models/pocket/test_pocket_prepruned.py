# ruff: noqa: E402
"""Training the glimpse's scorer under a first stage computes what the runtime computes, and leaves the base alone."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from support.slow import slow

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
for package in ("skimage", "sklearn", "matplotlib"):
    pytest.importorskip(package)

from glimpse_models.pocket import train_prepruned
from glimpse_models.pocket.checkpoint import PACKAGED, default_threshold, read_checkpoint
from glimpse_models.pocket.model.config import PocketConfig, special_id
from glimpse_models.pocket.model.glimpse import GlimpseForward
from glimpse_models.pocket.model.layout import make_layout, row_positions, text_rotary
from glimpse_models.pocket.model.model import Pocket, patchify
from glimpse_models.pocket.model.tokenizer import IMAGE_PAD
from glimpse_models.pocket.training.data import BatchSpec, RowEncoder, draw_batch
from glimpse_models.pocket.training.objectives import Scores, Trainee
from glimpse_models.pocket.training.plan import PREPRUNED, Part
from glimpse_models.pocket.training.prepruned import FIRST_STAGES, PrePrunedTask, entered_rotary, entering
from glimpse_runtime import Pruning, load

CONFIG = PocketConfig()
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.parametrize("method", FIRST_STAGES)
def test_logits_equal_the_runtimes(method):
    torch.set_num_threads(1)
    encoder = RowEncoder()
    batch = draw_batch(Random(5), encoder, BatchSpec(224, 336, 1))
    tokens, question = 8 * 12, 3
    ids = batch.ids[0, question, : batch.last[0, question] + 1]
    prompt = [*encoder.prefix, *[special_id(IMAGE_PAD)] * tokens, *ids.tolist()]
    trace = {}
    request = Pruning(pre=method, pre_keep=0.5)
    with load(trace=lambda name, value: trace.setdefault(name, np.array(value))) as vlm:
        report = vlm.ask_ids(batch.pixels[0].numpy(), prompt, pruning=request, max_new_tokens=1).pruning

    model, modules = read_checkpoint()
    pocket, prefix = Pocket(CONFIG, model), torch.tensor(encoder.prefix)
    layout = make_layout(CONFIG, 8, 12, len(prefix), 8, batch.ids.shape[2])
    with torch.no_grad():
        visual, taps = pocket.encode(patchify(batch.pixels, torch.float32), layout, CONFIG.vision_taps)
        text = pocket.embed(ids, torch.float32)
        cells = entering(method, visual, [text], 8, 12)
        assert cells[0].tolist() == np.flatnonzero(report.pre_masks[0]).tolist()
        rotary = entered_rotary(layout, text_rotary(CONFIG, row_positions(layout)), cells)
        visual, *taps = (x[:, cells[0]] for x in (visual, *taps))
        half = layout.entering(tokens // 2)
        forward = GlimpseForward(pocket, modules)
        logits = forward.logits(half, rotary, prefix, visual, taps, batch, cells=cells)
    np.testing.assert_allclose(logits[question], trace["mask_logits"][-1], atol=5e-3, rtol=5e-3)


def test_every_image_of_a_batch_has_tokens_of_its_own():
    """Two images at once are each what it is alone, as is what is kept of them."""
    torch.set_num_threads(1)
    encoder = RowEncoder()
    batch = draw_batch(Random(6), encoder, BatchSpec(112, 224, 2))
    model, modules = read_checkpoint()
    pocket, prefix = Pocket(CONFIG, model), torch.tensor(encoder.prefix)
    layout = make_layout(CONFIG, 4, 8, len(prefix), 8, batch.ids.shape[2])
    rotary, forward = text_rotary(CONFIG, row_positions(layout, 3)), GlimpseForward(pocket, modules)
    cells = torch.tensor([sorted(Random(image).sample(range(32), 16)) for image in range(2)])

    def logits(batch, cells):
        with torch.no_grad():
            visual, taps = pocket.encode(patchify(batch.pixels, torch.float32), layout, CONFIG.vision_taps)
            visual, *taps = (x.gather(1, cells[..., None].expand(-1, -1, x.shape[-1])) for x in (visual, *taps))
            tables = entered_rotary(layout, rotary, cells)
            return forward.logits(layout.entering(16), tables, prefix, visual, taps, batch, cells=cells)

    both = logits(batch, cells)
    for image in range(2):
        alone = logits(type(batch)(*(part[image : image + 1] for part in batch)), cells[image : image + 1])
        torch.testing.assert_close(both[image * 8 : image * 8 + 8], alone, atol=1e-4, rtol=1e-4)


def test_the_loss_is_of_the_whole_image_and_of_half():
    torch.set_num_threads(1)
    encoder = RowEncoder()
    trainee = Trainee(CONFIG, 0, compiled=False)
    model, modules = read_checkpoint()
    trainee.load_state_dict({"model": model.state_dict(), "glimpse": modules.state_dict()})
    batch, scores = draw_batch(Random(8), encoder, BatchSpec(224, 224, 2)), Scores()
    loss = PrePrunedTask(trainee, encoder).loss(batch, 0, scores)
    assert loss.item() == pytest.approx((scores.sums["mask"] + scores.sums["half mask"]) / 2, rel=1e-3)
    assert (scores.counts["kept"], scores.counts["half kept"]) == (2 * 8 * 64, 2 * 8 * 32)
    torch.autograd.backward(loss)
    assert all(parameter.grad is None for parameter in trainee.model.parameters())
    assert all(parameter.grad is not None for parameter in trainee.glimpse.parameters())


@slow
def test_the_command_writes_an_adapter_for_the_same_base(tmp_path, monkeypatch):
    tiny = replace(PREPRUNED, parts=(Part(((112, 112, 2),), 2),))
    monkeypatch.setattr(train_prepruned, "PREPRUNED", tiny)
    words = ["--out", str(tmp_path / "run"), "--steps", "2", "--workers", "1", "--eager"]
    assert train_prepruned.main(words) == 0
    assert "prepruned 2/2" in (tmp_path / "run" / "log.txt").read_text()
    (tmp_path / "run" / "base").symlink_to(PACKAGED / "base")
    assert default_threshold(tmp_path / "run") == default_threshold()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["done"] == {"prepruned": 2}
    before, after = read_checkpoint()[1].state_dict(), read_checkpoint(tmp_path / "run")[1].state_dict()
    for name, tensor in state["weights"]["glimpse"].items():
        assert not torch.equal(before[name], tensor), f"{name} has learnt nothing"
        torch.testing.assert_close(after[name], tensor, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(before[name], tensor, atol=0.05, rtol=0.2)
    model = read_checkpoint()[0].state_dict()
    assert all(torch.equal(model[name], tensor) for name, tensor in state["weights"]["model"].items())
    shipped = {path.name for path in (PACKAGED / "adapter").glob("pruner.*.npz")}
    assert {path.name for path in (tmp_path / "run" / "adapter").glob("pruner.*.npz")} == shipped
