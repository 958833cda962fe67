"""Every option that a checkpoint or an adapter may set, against an independent implementation.

The models are tiny and random; what is compared is all that FORMAT.md names, from pixels to tokens.
"""

import json
from pathlib import Path

import conformance
import numpy as np
import pytest
import torch
from reference import Reference, Request
from support.bundles import options
from support.checkpoints import make_case, write_model
from support.places import GOLDEN
from support.slow import few
from support.variants import VARIANTS

from glimpse_export import export
from glimpse_export.graphs.dialects import DIALECTS
from glimpse_runtime.bundle.bundle import Bundle

USUAL = (
    "head size 12, one KV head, float16, sharded, tied",
    "scorer within windows",
    "no glimpse token",
    "pruned after layer 0",
)


@pytest.mark.parametrize("name", few(VARIANTS, USUAL))
def test_variant(name: str, tmp_path: Path) -> None:
    model, cases = VARIANTS[name]
    folder = write_model(tmp_path / "model", **model)
    drawn = [make_case(folder, label.replace(" ", "-"), **settings) for label, settings in cases.items()]
    for dialect in DIALECTS:
        asked = options(folder, trace=True, dialects=(dialect,), certify="quick" if dialect == "ort" else "off")
        bundle = Bundle.open(export(asked, tmp_path / dialect))
        for case in drawn:
            result = conformance.check_case(folder, case.settings, case.arrays, bundle)
            assert not result.problems, (dialect, result.name)


@pytest.mark.parametrize("path", sorted((GOLDEN / "cases").glob("*.json")), ids=lambda path: path.stem)
def test_the_independent_implementation_reproduces_the_golden_vectors(path: Path) -> None:
    case, golden = json.loads(path.read_text()), dict(np.load(path.with_suffix(".npz")))
    request = Request(
        golden["input_ids"][0],
        torch.tensor(golden["pixel_values"]),
        [(int(rows) // 2, int(columns) // 2) for _, rows, columns in golden["image_grid_thw"]],
        enabled=case["do_selection"],
        changes=case["config_overrides"],
        eos=case["eos_token_id"],
    )
    found = Reference(GOLDEN).run(request)
    result = conformance.CaseResult(path.stem)
    for key in golden.keys() - conformance.INPUTS:
        conformance.compare(key, golden[key], found[key], result)
    assert not result.problems
