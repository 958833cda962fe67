# ruff: noqa: E402
"""The scan of pruning layers: what is dropped after the first layer is missed, what is kept answers."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
for package in ("skimage", "sklearn", "matplotlib"):
    pytest.importorskip(package)

from glimpse_models.pocket import layer_scan
from glimpse_models.pocket.scenes.questions import TYPES


def test_dropping_everything_early_loses_what_the_boxes_keep(monkeypatch, capsys):
    torch.set_num_threads(1)
    monkeypatch.setattr(layer_scan, "SIZES", ((224, 224),))
    assert layer_scan.main(["--images", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["all", *(f"{kept} after {layer}" for layer in range(5) for kept in ("none", "boxes"))]
    assert set(found["all"]) == {"all", *TYPES}
    assert found["all"]["all"] > 0.7
    assert found["none after 0"]["all"] < found["boxes after 2"]["all"] - 0.3
    assert found["boxes after 4"]["all"] > 0.7
