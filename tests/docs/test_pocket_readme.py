"""The tables of pocket's README are those of its results, and the results are those of the packaged weights."""

import importlib.util
import json
import re

from support.places import ROOT

POCKET = ROOT / "models" / "glimpse_models" / "pocket"


def test_tables_are_up_to_date():
    spec = importlib.util.spec_from_file_location("make_pocket", ROOT / "docs" / "make" / "make_pocket.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.render() == text
    results = json.loads(module.RESULTS.read_text(encoding="utf-8"))
    assert set(re.findall("<!-- table ([a-z]+)", text)) == set(results)


def test_the_readme_says_what_was_measured():
    found = json.loads((POCKET / "results.json").read_text(encoding="utf-8"))["evaluate"]["results"]
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    for figure in (found["unpruned"]["exact_match"], found["pruned"]["exact_match"], found["pruned"]["pruned_share"]):
        assert f"{100 * figure:.1f} %" in front
