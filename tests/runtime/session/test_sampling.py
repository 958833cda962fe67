"""Choosing tokens: against transformers' own filters, and what the options refuse."""

import numpy as np
import pytest

from glimpse_runtime import InputError, Sampling, Session
from glimpse_runtime.session.sampling import Sampler, filtered_probability

LOGITS = np.random.default_rng(5).standard_normal(200).astype(np.float32) * 3


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"top_k": 7},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
    ],
)
def test_equal_to_transformers(options: dict) -> None:
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers.generation.logits_process")
    sampling = Sampling(**{"temperature": 1.0, **options})
    warpers = [hf.TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        warpers.append(hf.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(hf.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(hf.MinPLogitsWarper(sampling.min_p))
    scores = torch.from_numpy(LOGITS)[None]
    for warper in warpers:
        scores = warper(None, scores)
    expected = torch.softmax(scores.double(), -1)[0].numpy()
    assert np.allclose(filtered_probability(LOGITS, sampling), expected, atol=1e-6)


def test_repetition_penalty_equals_transformers() -> None:
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers.generation.logits_process")
    prompt = [3, 5, 5, int(LOGITS.argmax())]
    expected = hf.RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([prompt]), torch.from_numpy(LOGITS.copy())[None])
    seen: list[np.ndarray] = []

    def spy(tokens: object, logits: np.ndarray) -> np.ndarray:
        seen.append(logits)
        return logits

    sampler = Sampler(Sampling(processors=(spy,)), np.array(prompt), 1.8)
    token = sampler.choose(LOGITS)
    assert np.allclose(seen[0], expected[0].numpy())
    assert token == int(expected.argmax())
    again = hf.RepetitionPenaltyLogitsProcessor(1.8)(
        torch.tensor([[*prompt, token]]), torch.from_numpy(LOGITS.copy())[None]
    )
    sampler.choose(LOGITS)
    assert np.allclose(seen[1], again[0].numpy())
    own = Sampler(Sampling(repetition_penalty=1.0, processors=(spy,)), np.array(prompt), 1.8)
    assert own.choose(LOGITS) == int(LOGITS.argmax())


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    options = Sampling(temperature=1.0, top_k=3, seed=11)
    sampler = Sampler(options, np.array([1]), 1.0)
    draws = [sampler.choose(LOGITS) for _ in range(4000)]
    expected = filtered_probability(LOGITS, options)
    counts = np.bincount(draws, minlength=200) / 4000
    assert np.abs(counts - expected).max() < 0.03
    again = Sampler(options, np.array([1]), 1.0)
    assert [again.choose(LOGITS) for _ in range(50)] == draws[:50]
    other = Sampler(Sampling(temperature=1.0, top_k=3, seed=12), np.array([1]), 1.0)
    assert [other.choose(LOGITS) for _ in range(50)] != draws[:50]


def test_a_processor_decides(pocket: Session, photo: np.ndarray) -> None:
    """The seam for structured output: only digits are allowed, and the tokens so far are shown."""
    lengths: list[int] = []

    def only(tokens: list[int], logits: np.ndarray) -> np.ndarray:
        lengths.append(len(tokens))
        masked = np.full_like(logits, -np.inf)
        masked[42] = 0
        return masked

    answer = pocket.ask(photo, "Hello", sampling=Sampling(processors=(only,)), max_new_tokens=3)
    _ = answer.text
    assert answer.token_ids == [42, 42, 42]
    assert lengths == [lengths[0], lengths[0] + 1, lengths[0] + 2]
    assert lengths[0] == answer.stats.prompt_tokens


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": 2},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"stop": "text"},
        {"stop": ("",)},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(InputError):
        Sampling(**options)
