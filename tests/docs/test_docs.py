"""The documents say what the code does: help texts are current, and Python snippets run."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from support.places import ROOT


def test_commands_are_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make" / "make_commands.py"))["render"]()
    assert (ROOT / "docs" / "use" / "commands.md").read_text() == made, "run: python docs/make/make_commands.py"


def test_the_table_of_methods_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make" / "make_pruners.py"))["render"]()
    assert (ROOT / "docs" / "use" / "pruners.md").read_text() == made, "run: python docs/make/make_pruners.py"


def test_every_need_of_a_method_is_explained() -> None:
    from glimpse_runtime.pruners.base import NEEDS

    text = (ROOT / "docs" / "use" / "pruners.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \| .* \| (?:anywhere|at the split) \|$", text, re.MULTILINE)) == set(NEEDS)


SNIPPETS = [
    pytest.param(code, id=f"{path.name}-{index}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for index, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippets_run(code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["snippet"])
    exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})
