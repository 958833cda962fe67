"""A model family is one folder: nothing outside it, the registry and the tests names a family."""

import io
import re
import tokenize
from pathlib import Path

import pytest
from rooms import family_of
from sources import modules

from glimpse_models.families import FAMILIES

NAMES = re.compile(r"qwen|llava|(?<![a-z.])clip(?!p|\()|mrope", re.IGNORECASE)
REGISTRY = {"glimpse_models.families", "glimpse_models.registry"}
FREE = ("glimpse_models.pocket",)
"""Pocket is a model, not a family: its folder says which family's checkpoint it writes."""
ALLOWED: dict[str, dict[str, str]] = {
    "glimpse_runtime.bundle.format_3": {"mrope_section": "the key in manifests of format 3, which knew one family"},
    "glimpse_runtime.pruners.methods.visionzip": {
        "clip_encoder.py": "where the rule comes from",
        "Qwen2.5-VL": "where the rule comes from",
    },
    "glimpse_runtime.pruners.methods.cdpruner": {
        "CLIP's text encoder": "where the rule comes from",
    },
    "glimpse_export.forecast.estimate": {"Qwen2.5-VL-3B": "what was measured"},
}
"""What may be said where, with the reason."""
PARTS = {
    *("facts/dims", "light/family", "light/record", "light/patches", "light/positions"),
    *("heavy/family", "heavy/architecture", "heavy/configuration", "heavy/image_rules", "heavy/vision"),
    *("heavy/reference", "heavy/estimate", "heavy/limits"),
}
"""The modules that every family has, by the same names."""


def named(source: str) -> set[str]:
    """The lines of code and docstrings that name a family."""
    return {line.strip() for line in source.splitlines() if NAMES.search(line)}


def test_no_other_room_names_a_family() -> None:
    wrong = []
    for module, path in modules().items():
        if family_of(module) or module in REGISTRY or module.startswith(FREE):
            continue
        for line in named(path.read_text(encoding="utf-8")):
            rest = line
            for words in ALLOWED.get(module, {}):
                rest = rest.replace(words, "")
            if NAMES.search(rest):
                wrong.append(f"{module}: {line}")
    assert not wrong, "\n".join(wrong)


def test_what_is_allowed_is_there() -> None:
    for module, reasons in ALLOWED.items():
        text = modules()[module].read_text(encoding="utf-8")
        for words in reasons:
            assert words in text, f"{module} no longer says {words!r}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("x = np.clip(x, 0, 1)", False),
        ("value.clip(0, 1)", False),
        ("the values are clipped", False),
        ("class QwenVision:", True),
        ("# as CLIP does", True),
        ('"clip_vision_model"', True),
        ("mrope_section = 3", True),
        ("a LLaVA-1.5 adapter", True),
    ],
)
def test_names_are_told_from_other_words(line: str, found: bool) -> None:
    assert bool(named(line)) == found


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.ARCHITECTURE)
def test_every_family_has_the_same_parts(family: object) -> None:
    folder = Path(str(family.__file__)).parent  # type: ignore[attr-defined]
    assert {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.py")} >= PARTS


def test_no_code_asks_which_family_it_is() -> None:
    """Outside of the registry an architecture's name is handed on, never compared."""
    known = {name for family in FAMILIES for name in (family.ARCHITECTURE, *family.MODEL_TYPES)}
    for module, path in modules().items():
        if family_of(module) or module.startswith(FREE):
            continue
        with io.BytesIO(path.read_bytes()) as file:
            words = {token.string.strip("\"'") for token in tokenize.tokenize(file.readline) if token.type == 3}
        assert not words & known, f"{module} spells {words & known}"
