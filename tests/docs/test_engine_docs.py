"""The tables of docs/bundle/tensorrt.md and docs/use/jetson.md are those of the code."""

import pytest
from support.places import ROOT

from glimpse_export.planning.boards import BOARDS, Board
from glimpse_export.planning.targets import TARGETS
from glimpse_models.qwen2_5_vl.facts.model_3b import FACTS
from glimpse_runtime.engines.flavours import FLAVOURS, Flavour

TENSORRT = (ROOT / "docs" / "bundle" / "tensorrt.md").read_text(encoding="utf-8")
JETSON = (ROOT / "docs" / "use" / "jetson.md").read_text(encoding="utf-8")


def yes(value: bool) -> str:
    return "yes" if value else "no"


def flavour_row(flavour: Flavour) -> str:
    name = "TensorRT-RTX" if flavour.portable else "TensorRT"
    cells = [
        f"{name} {'.'.join(map(str, flavour.since))}",
        ", ".join(f"`{dialect}`" for dialect in flavour.dialects),
        "a flag" if flavour.typed_by_flag else "always",
        flavour.resolution,
        yes(flavour.fused_attention),
        flavour.profiles,
        "a range" if flavour.portable else "the one there is",
        yes(flavour.timing_cache),
        yes(flavour.streams),
    ]
    return f"| {' | '.join(cells)} |"


def board_row(name: str, board: Board) -> str:
    cells = [
        f"`{name}`",
        board.capability or "7.5 to 12.x",
        board.software,
        ", ".join(f"`{dialect}`" for dialect in board.dialects),
        str(FACTS.precision[board.precision]),
        str(board.max_context or "4096"),
        str(board.max_visual_tokens or "what fits"),
        str(board.lm_head_parts),
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: f"{flavour.name}-{flavour.since}")
def test_the_table_of_versions_is_the_codes(flavour: Flavour) -> None:
    assert flavour_row(flavour) in TENSORRT


@pytest.mark.parametrize("name", BOARDS)
def test_the_table_of_boards_is_the_codes(name: str) -> None:
    assert board_row(name, BOARDS[name]) in JETSON


def test_targets_are_documented() -> None:
    for name in TARGETS:
        assert f"| `{name}` |" in TENSORRT
