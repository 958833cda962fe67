# ruff: noqa: E402
"""The learned pruning methods of pocket: what they are taught, that they learn, that the runtime computes the same."""

import gc
import json
import math
import shutil
from random import Random

import numpy as np
import pytest
from support.bundles import write_manifest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
for package in ("skimage", "sklearn", "matplotlib"):
    pytest.importorskip(package)

from PIL import Image

from glimpse_models.pocket import train_pruners
from glimpse_models.pocket.checkpoint import read_checkpoint
from glimpse_models.pocket.model.config import PocketConfig, special_id
from glimpse_models.pocket.model.tokenizer import IMAGE_PAD
from glimpse_models.pocket.train_pruners import Training
from glimpse_models.pocket.training.data import IGNORED, BatchSpec, RowEncoder, draw_batch
from glimpse_models.pocket.training.learned import Covipal, Sdtp, imitation_loss, ranking_loss
from glimpse_models.pocket.training.lessons import Teacher
from glimpse_models.pocket.training.objectives import Scores
from glimpse_runtime import Pruning, load
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.files.hashing import sha256_of
from glimpse_runtime.pruners import PrunerInput, find

CONFIG = PocketConfig()
SHARE = 0.25
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def batch():
    return draw_batch(Random(3), RowEncoder(), BatchSpec(224, 224, 1))


@pytest.fixture(scope="module")
def teacher():
    torch.set_num_threads(1)
    return Teacher(CONFIG, *read_checkpoint())


@pytest.fixture(scope="module")
def trained(teacher, batch):
    """A training of a few steps on one batch, and the losses of the first step and the last."""
    training, losses = Training(teacher), []
    training.begin(batch)
    for _ in range(25):
        scores = Scores()
        training.step(batch, 3e-3, scores)
        losses.append({name: scores.sums[name] for name in ("covipal loss", "sdtp loss")})
    return training, losses[0], losses[-1]


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory):
    """The packaged bundle with the trained files."""
    folder = tmp_path_factory.mktemp("learned") / "bundle"
    shutil.copytree(packaged_bundle(), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for path in trained[0].write(folder):
        manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_manifest(folder, manifest)
    return folder


def test_training_lowers_both_losses(trained):
    _, first, last = trained
    for name in first:
        assert last[name] < 0.8 * first[name]


def test_nothing_else_learns(teacher, trained):
    for module in (teacher.pocket.model, teacher.glimpse.modules):
        assert all(parameter.grad is None for parameter in module.parameters())


def test_files_are_small_and_half_precision(trained, tmp_path):
    paths = trained[0].write(tmp_path)
    assert [path.name for path in paths] == ["pruner.covipal.npz", "pruner.sdtp.npz"]
    assert sum(path.stat().st_size for path in paths) < 150_000
    assert {array.dtype for path in paths for array in np.load(path).values()} == {np.dtype(np.float16)}
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    again = [path.read_bytes() for path in trained[0].write(tmp_path / "again")]
    assert again == [path.read_bytes() for path in paths]


def prompt(batch, question):
    encoder = RowEncoder()
    tokens = batch.pixels.shape[1] // 28 * (batch.pixels.shape[2] // 28)
    tail = batch.ids[0, question, : batch.last[0, question] + 1].tolist()
    return [*encoder.prefix, *[special_id(IMAGE_PAD)] * tokens, *tail]


@pytest.mark.parametrize("question", [0, 5])
def test_the_runtime_sees_and_computes_what_was_trained(teacher, trained, bundle, batch, question):
    training, lesson = trained[0], teacher(batch)
    with torch.no_grad():
        expected = {
            "covipal": training.covipal(lesson.visual, lesson.text, lesson.asked)[0, question],
            "sdtp": training.sdtp(lesson.hidden)[0],
        }
    with load(bundle) as vlm:
        for method, scores in expected.items():
            request = Pruning(method=method, max_keep_ratio=SHARE)
            image = batch.pixels[0].numpy()
            report = vlm.ask_ids(image, prompt(batch, question), pruning=request, max_new_tokens=1).pruning
            (found,) = report.scores
            assert np.isfinite(found).all()
            assert report.kept == SHARE * found.size
            torch.testing.assert_close(torch.tensor(found).flatten(), scores, atol=0.02, rtol=0.02)
            assert scores.std() > 0.3


def given(**arrays):
    cells = np.arange(len(next(iter(arrays.values()))))
    return PrunerInput(0, 1, len(cells), cells, np.zeros((3, len(cells)), np.int64), 0, 0, arrays)


def test_files_equal_the_networks(tmp_path):
    """With a scale that is not one, and questions of several lengths side by side."""
    random = torch.Generator().manual_seed(0)
    covipal, sdtp = Covipal(12, 8, 10, seed=1), Sdtp(12, 6, seed=2)
    spread = torch.rand(12, generator=random) * 5 + 0.1
    visual, text = torch.randn(1, 9, 12, generator=random) * spread, torch.randn(1, 2, 7, 12, generator=random)
    lengths = (4, 7)
    for network in (covipal, sdtp):
        network.fit_scale(visual)
        torch.testing.assert_close(network.scale, visual[0].square().mean(0).sqrt())
        for parameter in network.parameters():
            parameter.data += torch.randn(parameter.shape, generator=random) * 0.1
    asked = torch.arange(7) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        expected, ranks = covipal(visual, text, asked[None])[0], sdtp(visual)[0]
    embeds = visual[0].numpy()
    files = {
        name: {f"weights.{k}": v.astype(np.float32) for k, v in network.arrays().items()}
        for name, network in (("covipal", covipal), ("sdtp", sdtp))
    }
    for question, length in enumerate(lengths):
        words = text[0, question, :length].numpy()
        found = find("covipal").choose(given(embeds=embeds, text=words, **files["covipal"]))
        np.testing.assert_allclose(found, expected[question], atol=5e-3)
    found = find("sdtp").choose(given(hidden=embeds, **files["sdtp"]))
    np.testing.assert_allclose(found, ranks, atol=5e-3)


def test_saliency_is_gradient_times_state(teacher, batch):
    """By transformers' own model, where every question is a prompt of its own."""
    model, states = teacher.pocket.model, []
    processor = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=10**6)
    pixels = processor(images=[Image.fromarray(batch.pixels[0].numpy())], return_tensors="pt")

    def cut(module, inputs, output):
        states.append(output.detach().requires_grad_())
        return states[-1]

    hook = model.model.language_model.layers[CONFIG.reduce_layer].register_forward_hook(cut)
    expected = 0.0
    for question in range(batch.ids.shape[1]):
        ids = torch.tensor([prompt(batch, question)])
        labels = batch.labels[0, question]
        answer = labels[labels != IGNORED]
        ids = torch.cat([ids, answer[None]], 1)
        kinds = (ids == special_id(IMAGE_PAD)).int()
        logits = model(input_ids=ids, mm_token_type_ids=kinds, attention_mask=torch.ones_like(ids), **pixels).logits
        loss = torch.nn.functional.cross_entropy(logits[0, -len(answer) - 1 : -1], answer, reduction="sum")
        (gradient,) = torch.autograd.grad(loss / len(answer) ** 0.5 / batch.ids.shape[1], states[-1])
        visual = kinds[0].bool()
        expected += (gradient * states[-1])[0, visual].sum(-1)
    hook.remove()
    lesson = teacher(batch)
    torch.testing.assert_close(lesson.hidden[0], states[-1][0, visual].detach(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(lesson.saliency[0], expected.abs(), atol=1e-4, rtol=1e-3)
    assert lesson.saliency.max() > 0.01


def test_ranking_loss_counts_pairs_by_hand():
    scores, saliency = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[3.0, 1.0, 1.0]])
    pairs = [0.5 + 1.0, 0.5 - 2.0]  # the first is more salient than both others, which are equal
    assert ranking_loss(scores, saliency).item() == pytest.approx(sum(math.log1p(math.exp(-d)) for d in pairs) / 2)
    good, bad = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    assert ranking_loss(good, good) < ranking_loss(bad, good)


def test_imitation_is_best_at_the_teachers_shares():
    probabilities = torch.tensor([[[0.9, 0.6, 0.3, 0.2], [0.01, 0.01, 0.02, 0.01]]])
    logits = (probabilities.log() + 5).requires_grad_()
    (gradient,) = torch.autograd.grad(imitation_loss(logits, probabilities), logits)
    assert gradient.abs().max() < 1e-6
    shares = [0.45, 0.3, 0.15, 0.1], [0.2, 0.2, 0.4, 0.2]
    entropy = [-sum(share * math.log(share) for share in question) for question in shares]
    expected = (entropy[0] + 0.05 * entropy[1]) / 2  # of the second question the teacher finds a twentieth of a token
    assert imitation_loss(logits, probabilities).item() == pytest.approx(expected)


def test_the_command_writes_the_files(tmp_path, monkeypatch, capsys):
    gc.collect()  # a closed session that the process which draws scenes inherited and freed would hang it
    monkeypatch.setattr(train_pruners, "SIZES", ((112, 112, 2), (112, 224, 1)))
    assert train_pruners.main(["--out", str(tmp_path), "--steps", "3"]) == 0
    found = capsys.readouterr()
    assert found.out.split() == [str(tmp_path / "pruner.covipal.npz"), str(tmp_path / "pruner.sdtp.npz")]
    assert "3/3" in found.err
    assert "min left" in found.err
