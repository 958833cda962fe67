"""Writes the tables of docs/figures/adaptive.md from adaptive.json; a test fails when the page is out of date.

python benchmarks/accuracy/adaptive.py --json > docs/figures/adaptive.json
python docs/make/make_adaptive.py
"""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "figures" / "adaptive.md"
REPORT = PAGE.with_suffix(".json")
BENCHMARK = ROOT / "benchmarks" / "accuracy" / "adaptive.py"
BEGIN, END = "<!-- tables: python docs/make/make_adaptive.py -->\n", "<!-- end of tables -->\n"


def render() -> str:
    """Returns the page with current tables."""
    tables = runpy.run_path(str(BENCHMARK))["tables"]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    return before + BEGIN + tables(report) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
