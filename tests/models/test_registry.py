import json
import math
from importlib import resources
from pathlib import Path

import pytest
from support.dims import qwen_dims

from glimpse_models import MODELS, TARGETS, ModelFacts, find
from glimpse_models.listing import listing

PRECISIONS = {"fp32", "fp16", "bf16", "int8", "int4"}
every_model = pytest.mark.parametrize("facts", MODELS.values(), ids=MODELS)


def test_names_are_found_in_any_case() -> None:
    assert list(MODELS) == [
        *("pocket", "pocket-plus", "qwen2.5-vl-3b", "qwen2.5-vl-7b"),
        *("llava-1.5-7b", "llava-1.5-13b"),
    ]
    assert find("Qwen2.5-VL-3B") is MODELS["qwen2.5-vl-3b"]
    assert find("qwen2.5-vl-72b") is None


@every_model
def test_facts_are_complete(facts: ModelFacts) -> None:
    assert set(facts.precision) == set(TARGETS)
    for precision in facts.precision.values():
        assert {precision.text, precision.vision or precision.text} <= PRECISIONS
    assert facts.licence
    assert facts.terms.endswith(".")
    assert 0 <= facts.dims.reduce_layer < facts.dims.layers
    assert max(facts.dims.taps) < facts.dims.vision_depth


def test_parameters_are_those_of_the_published_weights() -> None:
    assert MODELS["qwen2.5-vl-3b"].dims.parameters == 3_754_622_976
    assert MODELS["qwen2.5-vl-7b"].dims.parameters == 8_292_166_656
    # llava-hf's have 64 more words in two tables: 7,063,427,072 and 13,351,494,656.
    assert MODELS["llava-1.5-7b"].dims.parameters == 7_062_902_784
    assert MODELS["llava-1.5-13b"].dims.parameters == 13_350_839_296


def test_dims_of_pocket_are_those_of_its_checkpoint() -> None:
    folder = Path(str(resources.files("glimpse_models"))) / "pocket" / "checkpoint"
    base, adapter = (json.loads((folder / name / "config.json").read_text()) for name in ("base", "adapter"))
    dims = MODELS["pocket"].dims
    assert qwen_dims(base, adapter) == dims
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(folder / "base" / "model.safetensors", framework="np") as file:
        sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    assert sum(math.prod(shape) for shape in sizes.values()) == dims.parameters


def test_the_list_says_what_one_must_know() -> None:
    paragraphs = dict(zip(MODELS, listing().split("\n\n"), strict=True))
    text = paragraphs["qwen2.5-vl-3b"]
    assert text.startswith("qwen2.5-vl-3b\n")
    for part in ("Qwen/Qwen2.5-VL-3B-Instruct", "3.75 billion", "cpu: int4 (vision int8)", "non-commercial"):
        assert part in text
    assert max(map(len, listing().splitlines())) <= 120
