"""Values that a fuzz has found: each is refused by its name, and no message does anything to a terminal."""

from typing import Any

import numpy as np
import pytest

from glimpse_runtime import BundleFormatError, BundleNotFoundError, InputError, PromptError, load
from glimpse_runtime.session.session import Session

FRAME = np.zeros((28, 28, 3), np.uint8)


def test_messages_hold_no_control_characters() -> None:
    assert str(BundleFormatError("unknown key \x1b[2J\x00\ud800\nnext")) == "unknown key \\x1b[2J\\x00\\xd800\nnext"
    assert str(BundleNotFoundError("no \x07")) == "no \\x07"


def test_a_trace_is_a_function() -> None:
    with pytest.raises(InputError, match="trace must be a function"):
        load(trace=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[0, []], ["", b"\xff"], [[1], [2, 3]]])
def test_ids_of_no_one_shape(pocket: Session, ids: Any) -> None:
    with pytest.raises(PromptError, match="one-dimensional sequence of integer token ids"):
        pocket.ask_ids([], ids)


@pytest.mark.parametrize("eos", [np.array(1), np.ones((1, 1), np.int64)])
def test_ids_that_end_are_a_list(pocket: Session, eos: Any) -> None:
    with pytest.raises(InputError, match="eos must be token ids"):
        pocket.ask_ids([], [1], eos=eos)


@pytest.mark.parametrize("turns", [None, 3, "ab", ["ab"], [("a",)], [("a", "b", "c")], [None], {"a": "b"}])
def test_turns_are_pairs(pocket: Session, turns: Any) -> None:
    with pocket.encode(FRAME) as scene, pytest.raises(PromptError, match="turns must be a list of"):
        scene.ask("Is there a star?", turns=turns)
