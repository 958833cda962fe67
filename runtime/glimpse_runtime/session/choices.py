"""Answers that are one of some choices: a probability for each from one prefill.

The choices' tokens make a tree. Where it branches, the model's probabilities of the branches, and of ending there, are
taken in relation to each other; a choice's probability is their product on its way. So the probabilities are those of
drawing token by token among what the choices allow, they add up to one, and tokens that every remaining choice shares
count nothing: a long choice is no less likely for being long. Only the branches cost a decode step, the first none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glimpse_runtime.arrays import DoubleArray, FloatArray
from glimpse_runtime.checked import shown, text, texts
from glimpse_runtime.errors import InputError
from glimpse_runtime.inputs.tokenizer import Tokenizer
from glimpse_runtime.interrupt import Interrupt
from glimpse_runtime.stats import Stats
from glimpse_runtime.steps.pipeline import Pipeline

_MOST_CHOICES, _MOST_CHARACTERS = 1000, 1000
_BOOL = {"Yes": True, "yes": True, "No": False, "no": False}

Read = Callable[[Sequence[int]], FloatArray]
"""Gives the (vocab,) logits behind some tokens of the answer."""


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        value: the choice as it was given, or the bool it stands for.
        tokens: its ids; of a bool those of the likeliest spelling.
        probabilities: of every value; they add up to one.
    """

    value: Any
    tokens: tuple[int, ...]
    probabilities: Mapping[Any, float]


@dataclass
class _Node:
    """A start that some choices share."""

    after: "dict[int, _Node]" = field(default_factory=dict)
    ending: int | None = None

    @property
    def branches(self) -> int:
        return len(self.after) + (self.ending is not None)


def checked_choices(choices: Any) -> Mapping[str, Any] | None:
    """Returns the value of every text that an answer may be, in the caller's order; None is any text.

    Args:
        choices: two texts or more, or the type ``bool``, whose texts are yes and no with and without a capital.

    Raises:
        InputError: it is something else, or a text is there twice, empty or too long.
    """
    if choices is None:
        return None
    if choices is bool:
        return _BOOL
    found = texts("choices", choices)
    for choice in found:
        text("choice", choice)
        if len(choice) > _MOST_CHARACTERS:
            raise InputError(f"a choice may have {_MOST_CHARACTERS} characters, found one of {len(choice)}")
    if not 2 <= len(found) <= _MOST_CHOICES:
        raise InputError(f"choices must be 2 to {_MOST_CHOICES} texts, or bool, found {len(found)}")
    twice = [choice for choice in found if found.count(choice) > 1]
    if twice:
        raise InputError(f"choices has {shown(twice[0])} more than once; give every text once")
    return {choice: choice for choice in found}


class ChoiceTree:
    """The tokens of some choices by their shared starts."""

    def __init__(
        self, choices: Mapping[str, Any], tokenizer: Tokenizer, eos: Sequence[int], answer_open: str = ""
    ) -> None:
        """Tokenises the choices.

        Args:
            choices: the value of every text.
            tokenizer: the model's.
            eos: the ids that end an answer.
            answer_open: what the chat template has between the prompt's end and an answer, which the model says itself,
                such as a blank.

        Raises:
            InputError: the tokenizer makes no tokens of a choice, or the same of two.
        """
        self._values = choices
        self._texts = tuple(choices)
        opening = tuple(tokenizer.encode([(answer_open, True)]))
        self._ids = tuple(tuple(tokenizer.encode([(answer_open, True), (choice, False)])) for choice in self._texts)
        self._eos = list(eos)
        self._root = _Node()
        for index, ids in enumerate(self._ids):
            node = self._root
            for token in ids:
                node = node.after.setdefault(token, _Node())
            if ids == opening or node.ending is not None:
                same = "no tokens" if ids == opening else f"the same tokens as {shown(self._texts[node.ending or 0])}"
                raise InputError(
                    f"choice {shown(self._texts[index])} has {same} in this model's tokenizer; give another"
                )
            node.ending = index

    @property
    def longest(self) -> int:
        """Tokens of the longest choice."""
        return max(map(len, self._ids))

    def choose(self, logits: FloatArray, read: Read) -> Choice:
        """Weighs the choices; the first of equal ones is chosen.

        Args:
            logits: (vocab,) of the answer's first token.
            read: called for every other start at which choices part, longer ones after their own starts.
        """
        shares = np.exp(self._weigh(logits, read))
        probabilities: dict[Any, float] = dict.fromkeys(self._values.values(), 0.0)
        for choice, share in zip(self._texts, shares, strict=True):
            probabilities[self._values[choice]] += float(share)
        value = max(probabilities, key=probabilities.__getitem__)
        best = max((i for i, name in enumerate(self._texts) if self._values[name] == value), key=shares.__getitem__)
        return Choice(value, self._ids[best], probabilities)

    def _weigh(self, logits: FloatArray, read: Read) -> DoubleArray:
        """Returns the (choices,) logarithms of the probabilities."""
        weights = np.zeros(len(self._texts))
        waiting: list[tuple[_Node, tuple[int, ...], float]] = [(self._root, (), 0.0)]
        while waiting:
            node, start, weight = waiting.pop()
            while node.branches == 1 and node.ending is None:
                [(token, node)] = node.after.items()
                start = (*start, token)
            if node.branches == 1 and node.ending is not None:
                weights[node.ending] = weight
                continue
            here = read(start) if start else logits
            tokens = list(node.after)
            scores = here[tokens].astype(np.float64)
            if node.ending is not None:
                scores = np.append(scores, np.logaddexp.reduce(here[self._eos].astype(np.float64)))
            scores += weight - np.logaddexp.reduce(scores)
            if node.ending is not None:
                weights[node.ending] = scores[-1]
            for token, score in zip(tokens, scores.tolist(), strict=False):  # the end of a choice has no token
                waiting.append((node.after[token], (*start, token), score))
        return weights


def reader(pipeline: Pipeline, stats: Stats, interrupt: Interrupt) -> Read:
    """Returns what reads logits behind a prefilled prompt; what two starts share is decoded once."""
    there: list[int] = []

    def read(start: Sequence[int]) -> FloatArray:
        shared = next((i for i, (old, new) in enumerate(zip(there, start, strict=False)) if old != new), len(there))
        pipeline.rewind(len(there) - shared)
        del there[shared:]
        for token in start[shared:]:
            logits = pipeline.decode(token, stats, interrupt)
            there.append(token)
        return logits

    return read
