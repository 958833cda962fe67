"""Writes the table of docs/use/pruners.md from the registry; a test fails when the file is out of date.

python docs/make/make_pruners.py
"""

from pathlib import Path

from glimpse_runtime.pruners import BUILT_IN, find

PAGE = Path(__file__).parents[1] / "use" / "pruners.md"
BEGIN, END = "<!-- table: python docs/make/make_pruners.py -->\n", "<!-- end of table -->\n"


def render() -> str:
    """Returns the document with a current table."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    lines = ["| method | acts | needs | from |", "|---|---|---|---|"]
    for pruner in map(find, BUILT_IN):
        needs = ", ".join(f"`{need}`" for need in pruner.needs) or "-"
        lines.append(f"| `{pruner.name}` | {pruner.place} | {needs} | {pruner.source} |")
    return before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
