"""Choices: probabilities against a brute-force count over prefills, and what is refused."""

import json
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from support.commands import run_here
from support.places import ROOT

from glimpse_runtime import InputError, Pruning, Sampling, Session
from glimpse_runtime.session.choices import ChoiceTree
from glimpse_runtime.session.reading import Reading
from glimpse_runtime.steps.pipeline import Pipeline

COLOURS = ["red", "green", "blue", "orange", "black"]
QUESTION = "What colour is the circle?"
EOS = 9
PICTURE = ROOT / "examples/shapes.png"


class Letters:
    """A tokenizer of digits: one token each."""

    def encode(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        return [int(letter) for text, _ in pieces for letter in text]


def by_hand(ended: list[tuple[int, ...]], logits_after: Mapping[tuple[int, ...], np.ndarray]) -> list[float]:
    """Draws token by token among what the choices allow, one choice at a time, written without a tree."""
    found = []
    for choice in ended:
        share = 1.0
        for place, token in enumerate(choice):
            allowed = {other[place] for other in ended if other[:place] == choice[:place]}
            logits = logits_after[choice[:place]].astype(np.float64)
            weights = {other: float(np.exp(logits[other])) for other in allowed}
            share *= weights[token] / sum(weights.values())
        found.append(share)
    return found


@pytest.mark.parametrize(
    "texts",
    [
        ["1", "2"],
        ["1", "12", "123", "2"],
        ["1234", "1235", "1", "67", "68", "5"],
        ["11111112", "11111113"],
        ["12", "1"],
    ],
)
def test_probabilities_are_those_of_drawing_among_the_choices(texts: list[str]) -> None:
    random = np.random.default_rng(4)
    logits_after = {
        tuple(map(int, text[:length])): random.standard_normal(10).astype(np.float32) * 4
        for text in texts
        for length in range(len(text) + 1)
    }
    asked: list[tuple[int, ...]] = []

    def read(start: Sequence[int]) -> np.ndarray:
        asked.append(tuple(start))
        return logits_after[tuple(start)]

    tree = ChoiceTree({text: text for text in texts}, Letters(), (EOS,))  # type: ignore[arg-type]
    chosen = tree.choose(logits_after[()], read)
    expected = by_hand([(*map(int, text), EOS) for text in texts], logits_after)
    assert np.allclose(list(chosen.probabilities.values()), expected, atol=1e-12)
    assert sum(expected) == pytest.approx(1)
    assert chosen.value == texts[int(np.argmax(expected))]
    parting = {start for start in logits_after if start and _parts(start, texts)}
    assert sorted(asked) == sorted(parting), "a step for every start at which choices part, and no other"


def _parts(start: tuple[int, ...], texts: list[str]) -> bool:
    ended = [(*map(int, text), EOS) for text in texts]
    return len({text[len(start)] for text in ended if text[: len(start)] == start and len(text) > len(start)}) > 1


def test_the_first_of_equal_choices_is_chosen() -> None:
    tree = ChoiceTree({"2": "2", "1": "1"}, Letters(), (EOS,))  # type: ignore[arg-type]
    chosen = tree.choose(np.zeros(10, np.float32), lambda start: np.zeros(10, np.float32))
    assert (chosen.value, chosen.probabilities) == ("2", {"2": 0.5, "1": 0.5})


def test_every_step_reads_what_a_prefill_reads(pocket: Session, photo: np.ndarray) -> None:
    choices = ["12", "123", "124", "7", "blue", "black", "b"]
    everything = Pruning(enabled=False)
    answer = pocket.ask(photo, QUESTION, pruning=everything, choices=choices)
    tokenizer = pocket._reading.tokenizer
    assert tokenizer is not None
    ids = [tuple(tokenizer.encode([(choice, False)])) for choice in choices]
    seen: list[np.ndarray] = []

    def spy(tokens: Sequence[int], logits: np.ndarray) -> np.ndarray:
        seen.append(logits.copy())
        return logits

    prompt = pocket._reading.prompt(QUESTION, pocket._reading.scene(photo, None)[0].grids).ids
    eos = pocket.bundle.manifest.tokens.eos
    logits_after = {}
    for start in {choice[:length] for choice in ids for length in range(len(choice) + 1)}:
        sampling = Sampling(processors=(spy,), repetition_penalty=1.0)
        pocket.ask_ids(photo, [*prompt, *start], pruning=everything, sampling=sampling, max_new_tokens=1)
        logits_after[start] = np.append(seen[-1], np.logaddexp.reduce(seen[-1][list(eos)]))
    end = len(seen[0])
    expected = by_hand([(*choice, end) for choice in ids], logits_after)
    assert answer.probabilities is not None
    assert np.allclose(list(answer.probabilities.values()), expected, rtol=2e-3)
    assert answer.value == choices[int(np.argmax(expected))]


def test_one_prefill_and_no_step_where_the_first_tokens_differ(
    pocket: Session, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a decode step")

    monkeypatch.setattr(Pipeline, "decode", never)
    answer = pocket.ask(photo, QUESTION, choices=COLOURS)
    assert answer.value in COLOURS
    assert (answer.text, answer.finish_reason) == (answer.value, "stop")
    assert answer.probabilities is not None
    assert list(answer.probabilities) == COLOURS
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_yes_or_no_is_a_bool(pocket: Session, photo: np.ndarray) -> None:
    answer = pocket.ask(photo, "Is there a star?", choices=bool)
    assert isinstance(answer.value, bool)
    assert answer.text in (("Yes", "yes") if answer.value else ("No", "no"))
    assert answer.probabilities is not None
    assert set(answer.probabilities) == {True, False}


def test_scenes_and_chats_choose_as_questions_do(pocket: Session, photo: np.ndarray) -> None:
    alone = pocket.ask(photo, QUESTION, choices=COLOURS)
    with pocket.encode(photo) as scene:
        again = scene.ask(QUESTION, choices=COLOURS)
        chat = scene.chat()
        turn = chat.ask(QUESTION, choices=COLOURS)
        assert chat.turns == [(QUESTION, turn.text)]
    for answer in (again, turn):
        assert answer.value == alone.value
        assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-4)


def test_a_plain_answer_follows_a_choice(pocket: Session, photo: np.ndarray) -> None:
    before = pocket.ask(photo, QUESTION).text
    held = pocket.ask(photo, QUESTION, choices=["12", "123", "124"])
    assert pocket.ask(photo, QUESTION).text == before
    assert held.text == held.value
    assert pocket.ask(photo, QUESTION).value is None


def test_a_deadline_leaves_no_value(pocket: Session, photo: np.ndarray) -> None:
    answer = pocket.ask(photo, QUESTION, choices=COLOURS, timeout=0)
    assert (answer.value, answer.probabilities, answer.text, answer.finish_reason) == (None, None, "", "deadline")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("yes,no", "choices must be a tuple of non-empty texts"),
        (["yes"], "2 to 1000 texts"),
        ([], "2 to 1000 texts"),
        (["yes", ""], "non-empty"),
        (["yes", None], "non-empty"),
        (["yes", "no", "yes"], "more than once"),
        (["a" * 1001, "b"], "1000 characters"),
        (["\ud800", "b"], "not valid Unicode"),
        (int, "choices must be a tuple"),
        (7, "choices must be a tuple"),
        ({"yes": True, "no": False}, "choices must be a tuple"),
        (list(map(str, range(1001))), "2 to 1000 texts"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(
    pocket: Session, photo: np.ndarray, choices: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pocket.ask(photo, QUESTION, choices=choices)  # type: ignore[arg-type]


def test_choices_are_not_drawn(pocket: Session, photo: np.ndarray) -> None:
    with pytest.raises(InputError, match="leave one away"):
        pocket.ask(photo, QUESTION, choices=COLOURS, sampling=Sampling(temperature=1.0))


def test_choices_that_do_not_fit_are_refused_before_compute(
    pocket: Session, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "encode", lambda *_: pytest.fail("computed"))
    room = pocket.bundle.manifest.profiles["context"].max
    with pytest.raises(InputError, match="the start of an answer"):
        pocket.ask([], "1 " * (room - 40), choices=["7" * 100, "8"])


def test_the_command_prints_the_choice() -> None:
    question = ["What colour is the circle?", "--choices", "red, green,blue"]
    plain = run_here("glimpse_runtime.cli.run", PICTURE, *question)
    assert plain.stdout.strip() in ("red", "green", "blue")
    found = json.loads(run_here("glimpse_runtime.cli.run", PICTURE, *question, "--json").stdout)
    assert set(found["probabilities"]) == {"red", "green", "blue"}
    assert found["answer"] == plain.stdout.strip()
    long = ["a colour that is not here: white", "a colour that is not here: brown"]
    table = run_here("glimpse_runtime.cli.run", PICTURE, "What colour?", "--choices", ",".join(long), "--stats").stderr
    assert all(choice in table for choice in long)
    refused = run_here("glimpse_runtime.cli.run", PICTURE, *question, "--temperature", "1")
    assert refused.returncode == 2
    assert "--temperature has no meaning" in refused.stderr


def test_decode_speed_counts_steps_not_tokens(pocket: Session, photo: np.ndarray) -> None:
    long = pocket.ask(photo, QUESTION, choices=["12345678", "2"])
    assert long.stats.decode_tokens_per_s == 0, "their first tokens differ: nothing was decoded"
    shared = pocket.ask(photo, QUESTION, choices=["1112", "1113"]).stats
    assert shared.decode_steps == 3
    assert shared.decode_tokens_per_s == pytest.approx(3e3 / shared.stage_ms["decode"])


def test_a_deadline_covers_tokenising_choices(
    pocket: Session, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> None:
        time.sleep(1.2)

    monkeypatch.setattr(Reading, "choices", slow)
    start_s = time.perf_counter()
    answer = pocket.ask(photo, QUESTION, choices=COLOURS, timeout=0.1)
    assert (answer.value, answer.text, answer.finish_reason) == (None, "", "deadline")
    assert time.perf_counter() - start_s < 1
