"""Writes tables and picture of docs/figures/accuracy.md from accuracy.json; a test fails when the page is out of date.

python docs/make/make_accuracy.py
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures"
PAGE, RESULT, PICTURE = FIGURES / "accuracy.md", FIGURES / "accuracy.json", FIGURES / "images" / "accuracy.svg"
BEGIN, END = "<!-- {}: python docs/make/make_accuracy.py -->\n", "<!-- end of {} -->\n"

sys.path.insert(0, str(ROOT))

from benchmarks.accuracy.comparison import picture, tables


def result() -> dict[str, Any]:
    """Returns what was measured last."""
    found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    return found


def render() -> str:
    """Returns the document with current tables."""
    page, measured = PAGE.read_text(encoding="utf-8"), result()
    for name, text in parts(measured).items():
        before, rest = page.split(BEGIN.format(name))
        page = before + BEGIN.format(name) + text + END.format(name) + rest.split(END.format(name))[1]
    return page


def parts(measured: dict[str, Any]) -> dict[str, str]:
    """Returns the text between the markers of each name."""
    precisions = tables.markdown(tables.precisions(measured)) if "precisions" in measured else "Not measured yet.\n"
    return {
        "run": tables.run(measured),
        "ways": tables.markdown(tables.ways(measured)),
        "types": tables.markdown(tables.types(measured)),
        "precisions": precisions,
    }


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    picture.draw(result(), PICTURE)
