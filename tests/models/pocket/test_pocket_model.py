# ruff: noqa: E402
"""The fast training forward of pocket equals transformers' own; the glimpse forward equals a plain one."""

from random import Random

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from PIL import Image

from glimpse_models.pocket.model.config import PocketConfig, special_id
from glimpse_models.pocket.model.glimpse import GlimpseForward, GlimpseModules
from glimpse_models.pocket.model.layout import make_layout, row_positions, scorer_rotary, text_rotary
from glimpse_models.pocket.model.model import Pocket, make_model, patchify, rotate
from glimpse_models.pocket.model.tokenizer import IMAGE_PAD
from glimpse_models.pocket.training.data import BatchSpec, RowEncoder, draw_batch
from glimpse_models.pocket.training.optim import orthogonalised, schedule
from glimpse_models.pocket.training.reference import Reference

HEIGHT, WIDTH, TOKENS = 112, 224, 32
CONFIG = PocketConfig()


@pytest.fixture(scope="module")
def encoder():
    return RowEncoder()


@pytest.fixture(scope="module")
def batch(encoder):
    return draw_batch(Random(1), encoder, BatchSpec(HEIGHT, WIDTH, 1), "test")


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    made = make_model(CONFIG)
    torch.manual_seed(0)
    for name, parameter in made.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def modules():
    made = GlimpseModules(CONFIG)
    for name, parameter in made.named_parameters():
        if "bias" in name or "learnable" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def pixels(batch):
    """Patches as transformers makes them."""
    processor = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=10**6)
    return processor(images=[Image.fromarray(batch.pixels[0].numpy())], return_tensors="pt")


def prompt_ids(encoder, batch, question, extra=0):
    tail = batch.ids[0, question, : int(batch.last[0, question]) + 1 + extra].tolist()
    return torch.tensor([encoder.prefix + [special_id(IMAGE_PAD)] * TOKENS + tail])


def hf_inputs(ids, pixels):
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == special_id(IMAGE_PAD)).int(),
        **pixels,
    }


def layout(encoder, questions, segment):
    return make_layout(CONFIG, HEIGHT // 28, WIDTH // 28, len(encoder.prefix), questions, segment)


def test_vision_tower_and_its_taps_equal_transformers(encoder, batch, model, pixels):
    seen = {}
    for index in CONFIG.vision_taps:
        model.model.visual.blocks[index].register_forward_hook(
            lambda _, __, output, index=index: seen.setdefault(index, output)
        )
    expected = model.model.visual(pixels["pixel_values"], pixels["image_grid_thw"]).pooler_output
    table = layout(encoder, 8, 20)
    visual, taps = Pocket(CONFIG, model).encode(patchify(batch.pixels, torch.float32), table, CONFIG.vision_taps)
    torch.testing.assert_close(visual[0], expected, atol=1e-4, rtol=1e-4)
    for index, tap in zip(CONFIG.vision_taps, taps, strict=True):
        merged = seen[index].view(TOKENS, 4, -1).mean(1)[table.to_raster]
        torch.testing.assert_close(tap[0], merged, atol=1e-4, rtol=1e-4)


def test_questions_in_one_row_equal_separate_prompts(encoder, batch, model, pixels):
    pocket, table = Pocket(CONFIG, model), layout(encoder, 8, 20)
    visual, _ = pocket.encode(patchify(batch.pixels, torch.float32), table)
    row = pocket.row(torch.tensor(encoder.prefix), visual, pocket.embed(batch.ids, torch.float32))
    cos, sin = text_rotary(CONFIG, row_positions(table))
    logits = pocket.logits(pocket.decode(row, cos, sin, table.mask)[:, table.start :]).view(8, 20, -1)
    for question in (0, 3, 7):
        ids = prompt_ids(encoder, batch, question, extra=2)
        length = ids.shape[1] - len(encoder.prefix) - TOKENS
        expected = model(**hf_inputs(ids, pixels)).logits[0, -length:]
        torch.testing.assert_close(logits[question, :length], expected, atol=1e-4, rtol=1e-4)


def test_glimpse_attention_equals_a_plain_prompt_with_one_more_token(encoder, batch, model, modules, pixels):
    """Runs transformers' layers on one prompt with the glimpse token appended."""
    pocket = Pocket(CONFIG, model)
    maps = []

    def capture(scores, taps, cos, sin):
        maps.append(scores)
        return modules.score(scores, taps, cos, sin)

    forward = GlimpseForward(pocket, modules)
    forward.score = capture
    table = layout(encoder, 8, 20)
    cos, sin = text_rotary(CONFIG, row_positions(table))
    patches = patchify(batch.pixels, torch.float32)
    logits = forward(table, (cos, sin), torch.tensor(encoder.prefix), patches, batch)
    assert logits.shape == (8, TOKENS)

    question = 2
    language = model.model.language_model
    ids = prompt_ids(encoder, batch, question)
    embedded = language.embed_tokens(ids)
    visual = model.model.visual(pixels["pixel_values"], pixels["image_grid_thw"]).pooler_output
    embedded[0, len(encoder.prefix) : len(encoder.prefix) + TOKENS] = visual
    vectors = modules.vectors()
    hidden = torch.cat([embedded, vectors[:1][None]], 1)
    positions = row_positions(layout(encoder, 1, 21))[:, : hidden.shape[1]]
    rope = language.rotary_emb(hidden, positions[:, None])
    length = hidden.shape[1]
    mask = torch.zeros(length, length).masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -1e9)
    expected = []
    for index, layer in enumerate(language.layers[: CONFIG.reduce_layer + 1]):
        if index:
            hidden = hidden + torch.nn.functional.pad(vectors[index][None, None], (0, 0, length - 1, 0))
        if index in CONFIG.selected_layers:
            normed, attn = layer.input_layernorm(hidden), layer.self_attn
            query = attn.q_proj(normed).view(1, length, CONFIG.heads, -1).transpose(1, 2)
            key = attn.k_proj(normed).view(1, length, CONFIG.kv_heads, -1).transpose(1, 2)
            query, key = (rotate(x, *text_rotary(CONFIG, positions)) for x in (query, key))
            key = key.repeat_interleave(2, 1)[0, :, len(encoder.prefix) : len(encoder.prefix) + TOKENS]
            expected.append((query[0, :, -1:] @ key.mT)[:, 0] / CONFIG.head_dim**0.5)
        output = layer(
            hidden, attention_mask=mask[None, None], position_embeddings=rope, position_ids=positions[:, None]
        )
        hidden = output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(maps[0][question], torch.cat(expected).T, atol=1e-4, rtol=1e-4)


def test_scorer_equals_the_published_formula(modules):
    torch.manual_seed(3)
    attention = torch.randn(1, TOKENS, len(CONFIG.selected_layers) * CONFIG.heads)
    taps = [torch.randn(1, TOKENS, CONFIG.vision_hidden_size) for _ in CONFIG.vision_taps]
    cos, sin = scorer_rotary(CONFIG, 4, 8)
    weights = dict(modules.attn_fuser.named_parameters())
    norm = lambda x, weight: x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * weight  # noqa: E731

    def turn(x):
        x = x.view(TOKENS, CONFIG.scorer_heads, -1)
        half = x.shape[-1] // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return (x * cos[:, None] + turned * sin[:, None]).transpose(0, 1)

    hidden = attention[0] @ weights["attn_in_proj.weight"].T + weights["attn_in_proj.bias"]
    for index, tap in enumerate(taps):
        part = {
            name.removeprefix(f"layers.{index}."): weight
            for name, weight in weights.items()
            if name.startswith(f"layers.{index}.")
        }
        condition = tap[0] @ weights[f"cond_in_projs.{index}.weight"].T + weights[f"cond_in_projs.{index}.bias"]
        normed = norm(hidden, part["norm1.weight"])
        steered = torch.cat([normed, condition], 1)
        query, key = (turn(steered @ part[f"attn.{name}_proj.weight"].T) for name in "qk")
        value = (normed @ part["attn.v_proj.weight"].T).view(TOKENS, CONFIG.scorer_heads, -1).transpose(0, 1)
        mixed = (query @ key.mT / CONFIG.scorer_head_dim**0.5).softmax(-1) @ value
        hidden = hidden + mixed.transpose(0, 1).reshape(TOKENS, -1) @ part["attn.o_proj.weight"].T
        normed = norm(hidden, part["norm2.weight"])
        gate, up = (normed @ part[f"mlp.{n}_proj.weight"].T + part[f"mlp.{n}_proj.bias"] for n in ("gate", "up"))
        hidden = hidden + (torch.nn.functional.silu(gate) * up) @ part["mlp.down_proj.weight"].T
        hidden = hidden + part["mlp.down_proj.bias"]
    last = len(taps) - 1
    expected = hidden @ weights[f"attn_out_projs.{last}.weight"].T + weights[f"attn_out_projs.{last}.bias"]
    torch.testing.assert_close(modules.score(attention, taps, cos, sin)[0], expected[:, 0], atol=1e-4, rtol=1e-4)


def test_keeping_every_token_changes_no_answer_and_keeping_none_hides_the_image(batch, model, modules):
    reference = Reference(CONFIG, model, modules)
    everything = torch.ones(8, TOKENS, dtype=torch.bool)
    assert torch.equal(reference.right(batch), reference.right(batch, everything))
    assert reference.right(batch, ~everything).shape == (8,)
    scores = reference.scores(batch)
    assert scores.shape == (8, TOKENS)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(3, 16, 40)).float())
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_schedule_warms_up_and_decays():
    rates = [schedule(step, 100, 10, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == [1.0] * 41
    assert rates[99] == pytest.approx(0.02)
    assert rates[50:] == sorted(rates[50:], reverse=True)
