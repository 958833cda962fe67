"""Options of every type and size, and prompts of every character."""

import inspect
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import fuzzed, outcome, read
from mutating import TEXTS, values

from glimpse_runtime import Pruning, Sampling, load
from glimpse_runtime.pruners import names
from glimpse_runtime.session.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FRAME = np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3)
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "system\n")

numbers = st.integers(-2, 70) | st.floats() | st.sampled_from((np.float32(0.3), np.int64(7)))
shares = st.floats(0, 1)
masks = st.lists(st.builds(np.ones, st.tuples(st.integers(0, 4), st.integers(0, 4)), st.just(bool)), max_size=2)
texts = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from((*SPECIAL, *TEXTS, "star")), max_size=6).map("".join),
    st.builds(lambda text, count: text * count, st.sampled_from(("a ", "é", *SPECIAL)), st.sampled_from((500, 50_000))),
)


def keywords(owner: Any, *usual: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One or several of a call's keywords with any values."""
    found = inspect.signature(owner).parameters.values()
    known = [each.name for each in found if each.kind is each.KEYWORD_ONLY]
    return st.dictionaries(st.sampled_from(known), st.one_of(values, *usual), min_size=1, max_size=3)


def options(kind: type[Any], *usual: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some fields of a class of options."""
    known = [field.name for field in fields(kind)]
    return st.dictionaries(st.sampled_from(known), st.one_of(values, numbers, shares, *usual), min_size=1, max_size=4)


@fuzzed(120)
@given(keywords(load, numbers, st.sampled_from(("cpu", "cuda", "tensorrt", "off", "largest"))))
def test_options_of_load(given: dict[str, Any]) -> None:
    def use() -> None:
        with load(**{"warmup": "off", **given}) as vlm:
            read(vlm.ask(FRAME, "Is there a star?", max_new_tokens=1))

    if isinstance(given.get("threads"), (int, np.integer)) and given["threads"] > 64:
        given["threads"] = 64
    outcome(use)


@fuzzed(150)
@given(keywords(Session.ask, numbers, texts))
def test_options_of_a_question(pocket: Session, given: dict[str, Any]) -> None:
    outcome(lambda: read(pocket.ask(FRAME, "Is there a star?", **{"max_new_tokens": 2, **given})))


@fuzzed(400)
@given(options(Pruning, masks, st.sampled_from(names()), st.just(("tl", "br"))))
def test_options_of_pruning(pocket: Session, given: dict[str, Any]) -> None:
    outcome(lambda: read(pocket.ask(FRAME, "Is there a star?", pruning=Pruning(**given), max_new_tokens=1)))


@fuzzed(200)
@given(options(Sampling, st.lists(texts, max_size=2)))
def test_options_of_sampling(pocket: Session, given: dict[str, Any]) -> None:
    outcome(
        lambda: read(
            pocket.ask(FRAME, "Is there a star?", sampling=Sampling(**{"temperature": 0.8, **given}), max_new_tokens=3)
        )
    )


@fuzzed(150)
@given(question=texts | values, system=st.none() | texts | values)
def test_prompts(pocket: Session, question: Any, system: Any) -> None:
    outcome(lambda: read(pocket.ask(FRAME, question, system=system, max_new_tokens=2)))


@fuzzed(120)
@given(turns=st.lists(st.tuples(texts, texts) | values, max_size=3) | values, question=texts)
def test_conversations(pocket: Session, turns: Any, question: str) -> None:
    with pocket.encode(FRAME) as scene:
        outcome(lambda: read(scene.ask(question, turns=turns, max_new_tokens=1)))


@fuzzed(150)
@given(ids=st.lists(st.integers(-1, 600) | values, max_size=8) | values, eos=st.none() | values | st.lists(values))
def test_ids(pocket: Session, ids: Any, eos: Any) -> None:
    outcome(lambda: pocket.ask_ids([], ids, eos=eos, max_new_tokens=2).text)
