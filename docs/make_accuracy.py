"""Writes tables and picture of docs/accuracy.md from docs/accuracy.json; a test fails when the page is out of date.

python docs/make_accuracy.py
"""

import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAGE, RESULT, PICTURE = DOCS / "accuracy.md", DOCS / "accuracy.json", DOCS / "images" / "accuracy.svg"
BEGIN, END = "<!-- {}: python docs/make_accuracy.py -->\n", "<!-- end of {} -->\n"

sys.path.append(str(DOCS.parent / "benchmarks"))

from comparison import picture, tables  # noqa: E402


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
