"""What follows from the target of an export."""

import sys

import pytest

from glimpse_export.planning.boards import BOARDS
from glimpse_export.planning.targets import TARGETS, default_dialects
from glimpse_models.facts import TARGETS as PRECISION_TARGETS
from glimpse_models.registry import MODELS
from glimpse_runtime.engines import flavours


@pytest.mark.parametrize("target", ["cpu", "ort-cuda"])
def test_onnxruntime_gets_its_own_dialect(target: str) -> None:
    assert default_dialects(target, None) == ("ort",)


@pytest.mark.parametrize(("version", "dialect"), [("10.3.0", "plain"), ("10.13.0", "plain"), ("10.15.0", "opset24")])
def test_the_tensorrt_at_hand_decides(fake_tensorrt: pytest.MonkeyPatch, version: str, dialect: str) -> None:
    fake_tensorrt.setenv("FAKE_TENSORRT", version)
    assert default_dialects("tensorrt", None) == (dialect,)
    assert default_dialects("tensorrt-rtx", None) == ("opset24",)


def test_without_tensorrt_the_newest_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours, "repair_rtx_wheel", lambda: None)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    assert default_dialects("tensorrt", None) == default_dialects("tensorrt-rtx", None) == ("opset24",)


def test_a_board_whose_jetpack_is_not_known_gets_both(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    for name, board in BOARDS.items():
        expected = ("opset24", "plain") if board.target == "tensorrt" else ("opset24",)
        assert default_dialects(board.target, board) == expected, name


def test_boards_and_targets_name_what_there_is() -> None:
    for board in BOARDS.values():
        assert board.target in TARGETS
        assert board.precision in PRECISION_TARGETS
    for target in TARGETS.values():
        assert target.recommendation in PRECISION_TARGETS
    for facts in MODELS.values():
        assert set(PRECISION_TARGETS) <= set(facts.precision)


def test_boards_of_8_gb_split_their_lm_head() -> None:
    for name, board in BOARDS.items():
        assert board.lm_head_parts == (2 if board.shared and board.memory_gib <= 8 else 1), name
