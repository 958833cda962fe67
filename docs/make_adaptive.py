"""Writes the tables of docs/adaptive.md from docs/adaptive.json; a test fails when the page is out of date.

python benchmarks/adaptive.py --json > docs/adaptive.json
python docs/make_adaptive.py
"""

import json
import runpy
from pathlib import Path

PAGE = Path(__file__).with_name("adaptive.md")
REPORT = Path(__file__).with_name("adaptive.json")
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "adaptive.py"
BEGIN, END = "<!-- tables: python docs/make_adaptive.py -->\n", "<!-- end of tables -->\n"


def render() -> str:
    """Returns the page with current tables."""
    tables = runpy.run_path(str(BENCHMARK))["tables"]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    return before + BEGIN + tables(report) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
