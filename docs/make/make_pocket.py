"""Writes the tables of pocket's README from its results; a test fails when the file is out of date.

    python docs/make/make_pocket.py

The results are what these commands printed, under the names here:

    evaluate    python -m glimpse_models.pocket.evaluate --json
    plus        the same with --bundle DIR, made by: glimpse-export --model pocket-plus --out DIR
    thresholds  python -m glimpse_models.pocket.validate --json
    layers      python -m glimpse_models.pocket.layer_scan --json
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "models" / "glimpse_models" / "pocket"
PAGE, RESULTS = FOLDER / "README.md", FOLDER / "results.json"
COLUMNS = ("colour", "shape", "digit", "count", "word", "number", "exist")
END = "<!-- end of table -->\n"
WAYS = {
    "unpruned": "no pruning",
    "pruned": "**default**: threshold {threshold:g}",
    "cap 0.111": "cap of 11.1 %, as in the paper",
    "boxes": "what is under the true boxes",
    "random": "as many as the default, at random",
    "none": "no visual token after layer 2",
    "blind": "no image at all",
}


def table(head: list[str], rows: list[list[object]]) -> str:
    """Returns a Markdown table; figures get three places."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def accuracy(found: Mapping[str, Any], threshold: float) -> str:
    """Returns exact match by way of pruning."""
    rows: list[list[object]] = []
    for name, row in found["results"].items():
        words = WAYS.get(name, name)
        by_type = [row["exact_match_by_type"].get(kind) for kind in (*COLUMNS, "known")]
        rows.append(
            [words.format(threshold=threshold), row["exact_match"], *by_type, row["pointed"], row["pruned_share"]]
        )
    return table(["visual tokens kept", "all", *COLUMNS, "known words", "points", "pruned"], rows)


def scan(found: Mapping[str, Mapping[str, float]]) -> str:
    """Returns what ``layer_scan`` found, a line each."""
    head = ["visual tokens kept", *next(iter(found.values()))]
    return table(head, [[name, *row.values()] for name, row in found.items()])


def render() -> str:
    """Returns the document with current tables."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    config = json.loads((FOLDER / "checkpoint" / "adapter" / "config.json").read_text(encoding="utf-8"))
    threshold = config["reduce_threshold"]
    text = PAGE.read_text(encoding="utf-8")
    for name, found in results.items():
        content = accuracy(found, threshold) if "results" in found else scan(found)
        begin = f"<!-- table {name}: python docs/make/make_pocket.py -->\n"
        before, rest = text.split(begin)
        text = before + begin + content + END + rest.split(END, 1)[1]
    return text


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
