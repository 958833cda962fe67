"""Models of the LLaVA-1.5 family for tests: the golden one, and changed copies of it."""

import shutil
from pathlib import Path
from typing import Any

from support.bundles import options

GOLDEN = Path(__file__).parents[2] / "golden" / "llavaA"
TOWER = "openai/clip-vit-large-patch14-336"
IMAGE, TOKENS = -200, 64
"""The placeholder in golden ids, and the visual tokens it stands for."""


def golden_options(**changes: Any) -> Any:
    """An export of the golden model, without tokenizer and certificate where nothing else is said."""
    return options(GOLDEN, **changes)


def copy_model(place: Path, *parts: str) -> Path:
    """Returns a copy of the golden model that a test may change: base, adapter and tower, or the parts named."""
    for part in parts or ("base", "adapter", "openai"):
        shutil.copytree(GOLDEN / part, place / part)
    return place


def prompt_ids(image: int, words: int = 7) -> list[int]:
    """Returns a prompt of fixed ids around one image of the golden model."""
    return [1, 5, 6, *[image] * TOKENS, *range(10, 10 + words)]
