"""From the words of a command to a request: target, board and registry fill in what was not said."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glimpse_export.engines.options import BuildOptions
from glimpse_export.planning.boards import BOARDS, Board, parse_budget
from glimpse_export.planning.options import ExportOptions
from glimpse_export.planning.targets import DEFAULT_TARGET, TARGETS, default_dialects
from glimpse_export.weights.precision import Precision
from glimpse_models import find
from glimpse_runtime.bundle.dialects import ORT


def target_of(words: Mapping[str, Any]) -> str:
    """Returns the target: what was asked for, else the board's, else a CPU."""
    board = board_of(words)
    return str(words["target"] or (board.target if board else DEFAULT_TARGET))


def board_of(words: Mapping[str, Any]) -> Board | None:
    """Returns the board that was named."""
    return BOARDS[words["board"]] if words["board"] else None


def export_options(words: Mapping[str, Any]) -> ExportOptions:
    """Returns the options of an export; what was said counts before the board, and this before the target."""
    board, target = board_of(words), target_of(words)
    dialects = tuple(words["dialects"]) or default_dialects(target, board)
    return ExportOptions(
        model=words["model"],
        adapter=words["adapter"],
        lora=words["lora"],
        vision_tower=words["vision_tower"],
        revision=words["revision"],
        target=target,
        dialects=dialects,
        precision=_precision(words, board, target, dialects),
        vision_attention=words["vision_attention"],
        head_parts=words["head_parts"] or (board.lm_head_parts if board else 1),
        max_context=words["max_context"] or (board.max_context if board else None),
        max_visual_tokens=words["max_visual_tokens"] or (board.max_visual_tokens if board else None),
        budget=words["budget"] or (parse_budget(words["board"]) if board else None),
        tokenizer=not words["no_tokenizer"],
        certify=words["certify"],
        force=words["force"],
    )


def build_options(words: Mapping[str, Any], dialect: str | None = None) -> BuildOptions:
    """Returns the options of building engines.

    Args:
        words: the command's.
        dialect: which dialect of the bundle; None is the best.
    """
    is_alone = words["bundle"] is not None
    return BuildOptions(
        target=target_of(words),
        dialect=dialect,
        plugin=words["plugin"],
        # Of an export, the budget is for the run; of a build alone, for the build.
        budget=words["budget"] if is_alone else None,
        force=words["force"] and is_alone,
    )


def _precision(words: Mapping[str, Any], board: Board | None, target: str, dialects: tuple[str, ...]) -> Precision:
    """What was asked for; without ``--precision`` what the registry recommends for a model on its target."""
    parts = {part: words[f"{part}_precision"] for part in Precision.parts()}
    parts["kv_cache"] = parts["kv_cache"] or TARGETS[target].kv_cache
    gpu = ORT not in dialects
    facts = find(words["model"]) if words["precision"] is None else None
    if facts is None or Path(words["model"]).is_dir():
        return Precision.choose(words["precision"], gpu, **parts)
    recommended = facts.precision[board.precision if board else TARGETS[target].recommendation]
    return Precision.choose(recommended.text, gpu, **{**parts, "vision": parts["vision"] or recommended.vision})
