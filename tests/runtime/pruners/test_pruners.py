"""Every pruning method against a plain transcription of its source's formula, in loops or with another library."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from glimpse_runtime import PruningError
from glimpse_runtime.pruners import BEFORE, SPLIT, Pruner, PrunerInput, find, names, table
from glimpse_runtime.pruners.methods.neighbour_suppression import centred, pick
from glimpse_runtime.pruners.methods.position_debias import debias

Mask = list[bool]


def given(
    seed: int, rows: int = 5, columns: int = 7, keep: int = 12, width: int = 24, **arrays: np.ndarray
) -> PrunerInput:
    """An image whose tokens come in groups that look alike, and a question of seven tokens."""
    rng = np.random.default_rng(seed)
    count = rows * columns
    groups = rng.standard_normal((4, width))
    embeds = (groups[rng.integers(0, 4, count)] + 0.4 * rng.standard_normal((count, width))).astype(np.float32)
    text = rng.standard_normal((7, width)).astype(np.float32)
    cells = np.arange(count)
    positions = np.stack([np.zeros(count, np.int64), *np.divmod(cells, columns)])
    known = {"embeds": embeds, "text": text, "vision_attention": rng.random(count).astype(np.float32), **arrays}
    return PrunerInput(0, rows, columns, cells, positions, keep, 0, known)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def as_mask(kept: set[int], count: int) -> Mask:
    return [index in kept for index in range(count)]


def dart_by_hand(image: PrunerInput) -> Mask:
    """``get_retained_image_token``: pivots by L1 norm, then in turn those least like each pivot, none twice."""

    def largest(vectors: np.ndarray, count: int) -> list[int]:
        norms = [sum(abs(float(x)) for x in vector) for vector in vectors]
        return sorted(range(len(norms)), key=lambda index: -norms[index])[:count]

    pivots = [image.embeds[index] for index in largest(image.embeds, min(4, image.keep))]
    retained = set(largest(image.embeds, min(4, image.keep)))
    pivots += [image.text[index] for index in largest(image.text, 4)]
    left = image.keep - len(retained)
    shares = [left // len(pivots) + (index < left % len(pivots)) for index in range(len(pivots))]
    for pivot, share in zip(pivots, shares, strict=True):
        valid = [index for index in range(len(image.embeds)) if index not in retained]
        valid.sort(key=lambda index: cosine(pivot, image.embeds[index]))
        retained |= set(valid[:share])
    return as_mask(retained, len(image.embeds))


def divprune_by_hand(image: PrunerInput) -> Mask:
    """``DivPrune``: the largest second-smallest distance first, then the largest distance to what is chosen."""
    count = len(image.embeds)
    distance = [[1 - cosine(a, b) for b in image.embeds] for a in image.embeds]
    chosen: list[int] = []
    for _ in range(image.keep):
        if chosen:
            scores = [min(distance[other][token] for other in chosen) for token in range(count)]
        else:
            scores = [sorted(distance[token])[1] for token in range(count)]
        chosen.append(max((token for token in range(count) if token not in chosen), key=lambda token: scores[token]))
    return as_mask(set(chosen), count)


def cdpruner_by_hand(image: PrunerInput, theta: float = 0.5) -> Mask:
    """The definition that the greedy algorithm stands for: add what makes the kernel's determinant largest."""
    count = len(image.embeds)
    relevance = np.array([np.mean([cosine(token, word) for word in image.text]) for token in image.embeds])
    relevance = (relevance - relevance.min()) / (relevance.max() - relevance.min())
    weight = [math.exp(theta / (2 * (1 - theta)) * value) for value in relevance]
    kernel = np.array(
        [[weight[i] * cosine(image.embeds[i], image.embeds[j]) * weight[j] for j in range(count)] for i in range(count)]
    )
    chosen: list[int] = []
    for _ in range(image.keep):
        volume = {}
        for token in set(range(count)) - set(chosen):
            part = [*chosen, token]
            volume[token] = np.linalg.slogdet(kernel[np.ix_(part, part)])[1]
        chosen.append(max(volume, key=lambda token: volume[token]))
    return as_mask(set(chosen), count)


def visionzip_by_hand(image: PrunerInput) -> Mask:
    """``CLIPVisionTower_VisionZip``: 54 of 64 by attention, 10 of 64 at even steps among the others."""
    contextual = int(image.keep * 10 / 64)
    order = sorted(range(len(image.cells)), key=lambda token: -image.vision_attention[token])
    dominant = set(order[: image.keep - contextual])
    filtered = [token for token in range(len(image.cells)) if token not in dominant]
    step = max(1, len(filtered) // contextual) if contextual else 1
    targets = [filtered[place] for place in range(0, len(filtered), step)][:contextual]
    return as_mask(dominant | set(targets), len(image.cells))


def uniform_by_hand(image: PrunerInput) -> Mask:
    count = len(image.cells)
    return as_mask({math.floor((step + 0.5) * count / image.keep) for step in range(image.keep)}, count)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("dart", dart_by_hand),
        ("divprune", divprune_by_hand),
        ("cdpruner", cdpruner_by_hand),
        ("visionzip", visionzip_by_hand),
        ("uniform", uniform_by_hand),
    ],
)
@pytest.mark.parametrize("keep", [1, 3, 12, 20])
def test_masks_equal_the_formula(name: str, by_hand: Callable[[PrunerInput], Mask], seed: int, keep: int) -> None:
    image = given(seed, keep=keep)
    found = find(name).choose(image)
    assert found.dtype == np.bool_
    assert found.sum() == keep
    assert found.tolist() == by_hand(image)


@pytest.mark.parametrize("name", ["dart", "divprune", "cdpruner", "visionzip", "uniform"])
def test_masks_keep_exactly_what_is_asked(name: str) -> None:
    for keep in (0, 1, 2, 5, 34, 35):
        assert find(name).choose(given(1, keep=keep)).sum() == keep
    alike = given(0, keep=9)
    alike.arrays["embeds"][:] = 1.0  # type: ignore[index]
    assert find(name).choose(alike).sum() == 9
    one = given(0, 1, 1, keep=1)
    assert find(name).choose(one).tolist() == [True]


def test_cdpruner_fills_up_by_relevance_when_nothing_is_new() -> None:
    image = given(3, keep=20, width=6)  # more tokens than dimensions: the kernel has rank 6
    kept = find("cdpruner").choose(image)
    assert kept.sum() == 20
    relevance = np.array([np.mean([cosine(token, word) for word in image.text]) for token in image.embeds])
    diverse = cdpruner_by_hand(given(3, keep=6, width=6))
    rest = [token for token in np.argsort(-relevance) if not diverse[token]][:14]
    assert set(np.flatnonzero(kept)) == set(np.flatnonzero(diverse)) | set(rest)


def test_random_is_a_draw_that_the_seed_decides() -> None:
    first, again = (find("random").choose(given(0)) for _ in range(2))
    assert np.array_equal(first, again)
    other = PrunerInput(**{**vars(given(0)), "seed": 1})
    second_image = PrunerInput(**{**vars(given(0)), "image": 1})
    for changed in (other, second_image):
        assert not np.array_equal(first, find("random").choose(changed))
    many = np.stack([find("random").choose(PrunerInput(**{**vars(given(0)), "seed": s})) for s in range(400)])
    best = np.argsort(-many, axis=1)[:, :7]
    assert np.bincount(best.ravel(), minlength=35) == pytest.approx(80, abs=35)  # each is kept in a fifth of the draws


@pytest.mark.parametrize("seed", range(3))
def test_covipal_equals_torch(seed: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    shapes = {"q": (24, 8), "k": (24, 8), "v": (24, 8), "w1": (32, 10), "b1": (10,), "w2": (10,), "b2": ()}
    weights = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}
    image = given(seed, **{f"weights.{name}": array for name, array in weights.items()})
    visual, text = torch.tensor(image.embeds), torch.tensor(image.text)
    w = {name: torch.tensor(array) for name, array in weights.items()}
    seen = torch.nn.functional.scaled_dot_product_attention(visual @ w["q"], text @ w["k"], text @ w["v"])
    inner = torch.nn.functional.gelu(torch.cat([visual, seen], 1) @ w["w1"] + w["b1"], approximate="tanh")
    assert np.allclose(find("covipal").choose(image), inner @ w["w2"] + w["b2"], atol=1e-4, rtol=1e-4)


def test_sdtp_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((35, 24)).astype(np.float32)
    weights = {"w1": (24, 10), "b1": (10,), "w2": (10,), "b2": ()}
    drawn = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in weights.items()}
    image = given(0, hidden=hidden, **{f"weights.{name}": array for name, array in drawn.items()})
    w = {name: torch.tensor(array) for name, array in drawn.items()}
    inner = torch.nn.functional.gelu(torch.tensor(hidden) @ w["w1"] + w["b1"], approximate="tanh")
    assert np.allclose(find("sdtp").choose(image), inner @ w["w2"] + w["b2"], atol=1e-4)


@pytest.mark.parametrize(("name", "need"), [("fastv", "attention"), ("glimpse-attention", "glimpse_attention")])
def test_attention_methods_take_the_mean_over_heads(name: str, need: str) -> None:
    shares = np.random.default_rng(0).random((6, 35)).astype(np.float32)
    found = find(name).choose(given(0, **{need: shares}))
    assert np.allclose(found, [sum(shares[head][token] for head in range(6)) / 6 for token in range(35)])


@pytest.mark.parametrize("seed", range(5))
def test_position_debias_divides_the_fitted_trend_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = np.sort(rng.permutation(60)[:40])
    scores = (np.exp(0.05 * cells + rng.standard_normal(40)) / 1000).astype(np.float32)
    slope = np.polynomial.Polynomial.fit(cells, np.log(scores), 1).convert().coef[1]
    assert np.allclose(debias(scores, cells), scores / np.exp(slope * (cells - cells[0])), rtol=1e-4)
    trend = np.exp(0.1 * cells).astype(np.float32)
    assert np.allclose(debias(trend, cells), trend[0], rtol=1e-3)
    assert np.array_equal(debias(scores[:1], cells[:1]), scores[:1])


def suppressed_by_hand(image: PrunerInput, scores: np.ndarray) -> list[int]:
    """``adapt_nms_2d`` and its Gaussian, token by token."""
    left = []
    for token, score in enumerate(scores):
        row, column = divmod(token, image.columns)
        y, x = -1 + 2 * row / (image.rows - 1), -1 + 2 * column / (image.columns - 1)
        left.append(float(score) * math.exp(-(x * x + y * y) / 2))
    chosen: list[int] = []
    while len(chosen) < image.keep:
        best = max((token for token in range(len(left)) if token not in chosen), key=lambda token: left[token])
        chosen.append(best)
        for token in range(len(left)):
            (row, column), (top, side) = divmod(token, image.columns), divmod(best, image.columns)
            distance = math.hypot(row - top, column - side)
            if distance <= 5:
                unlike = 1 - cosine(image.embeds[token], image.embeds[best])
                decay = math.exp(-(distance**2) / (2 * 1.5**2)) * math.exp(-(unlike**2) / (2 * 0.05**2))
                left[token] *= 1 - decay
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_neighbour_suppression_equals_the_formula(seed: int) -> None:
    image = given(seed, 9, 12, keep=30)
    image.arrays["embeds"][:] = image.embeds[0] + 0.15 * image.embeds  # type: ignore[index]  (many are alike)
    scores = np.random.default_rng(seed).random(108).astype(np.float32)
    weighed = centred(scores, image.cells, 9, 12)
    places = np.stack([np.zeros(108, np.int64), *np.divmod(image.cells, 12)])
    found = pick(weighed, image.embeds, places, 30)
    assert found.tolist() == suppressed_by_hand(image, scores)
    assert set(found) != set(np.argsort(-weighed)[:30])


def test_suppression_stays_within_an_image() -> None:
    places = np.array([[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]])
    scores = np.array([4, 3, 2, 1], np.float32)
    alike = np.ones((4, 3), np.float32)
    assert pick(scores, alike, places, 4).tolist()[:2] == [0, 2]


def test_names_are_found_and_unknown_ones_are_told_the_rest() -> None:
    for name in names():
        pruner = find(name)
        assert pruner.name == name
        assert pruner.source
        assert name in table()
    with pytest.raises(PruningError, match=r"unknown pruning method 'darts'; there are glimpse, .*divprune"):
        find("darts")


def test_a_method_gets_what_it_asks_for_and_no_more() -> None:
    with pytest.raises(PruningError, match="'features' without having it"):
        _ = given(0).features
    with pytest.raises(PruningError, match=r"'weights\.w9' without having it"):
        given(0).weights("w9")
    with pytest.raises(PruningError, match="needs attention; before layer 0 there is embeds, text"):
        Pruner("x", BEFORE, ("attention",), "", lambda given: given.cells)
    with pytest.raises(PruningError, match="place must be one of"):
        Pruner("x", "after", (), "", lambda given: given.cells)
    with pytest.raises(PruningError, match="none can be adaptive"):
        Pruner("x", BEFORE, (), "", lambda given: given.cells, adaptive=True)
    assert Pruner("x", SPLIT, ("attention",), "", lambda given: given.cells).ranks_attention
