"""Methods with trained weights take them from the bundle."""

import re
from pathlib import Path

import numpy as np
import pytest
from support.pruners import MISFITS, with_weights

from glimpse_runtime import BundleFormatError, Pruning, load

QUESTION = "What colour is the circle?"
OTHER = "How many stars are there?"


def test_learned_methods_take_their_weights_from_the_bundle(tmp_path: Path, photo: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    shapes = {"q": (128, 8), "k": (128, 8), "v": (128, 8), "w1": (136, 16), "b1": (16,), "w2": (16,), "b2": ()}
    weights = {name: np.asarray(rng.standard_normal(shape), np.float16) for name, shape in shapes.items()}
    with load(with_weights(tmp_path / "covipal", "covipal", weights)) as vlm:
        report = vlm.ask(photo, QUESTION, pruning=Pruning(method="covipal", max_keep_ratio=0.25)).pruning
        assert report.kept == 24
        best = np.sort(report.scores[0], axis=None)[-24:]
        assert np.array_equal(np.sort(report.scores[0][report.keep_masks[0]]), best)
        other = vlm.ask(photo, OTHER, pruning=Pruning(method="covipal", max_keep_ratio=0.25)).pruning
        assert not np.array_equal(other.scores[0], report.scores[0])
        staged = vlm.ask(photo, QUESTION, pruning=Pruning(pre="covipal", pre_keep=0.25)).pruning
        assert np.array_equal(staged.pre_masks[0], report.keep_masks[0])
    shapes = {"w1": (128, 16), "b1": (16,), "w2": (16,), "b2": ()}
    weights = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}
    with load(with_weights(tmp_path / "sdtp", "sdtp", weights)) as vlm:
        report = vlm.ask(photo, QUESTION, pruning=Pruning(method="sdtp", max_keep_ratio=0.25)).pruning
        assert (report.method, report.kept) == ("sdtp", 24)


def test_weights_that_do_not_fit_are_named(tmp_path: Path, photo: np.ndarray) -> None:
    request = Pruning(method="sdtp", max_keep_ratio=0.25)
    for number, (content, part) in enumerate(MISFITS):
        bundle = with_weights(tmp_path / str(number), "sdtp", content)
        with load(bundle) as vlm, pytest.raises(BundleFormatError, match=rf"pruner\.sdtp\.npz.*{re.escape(part)}"):
            vlm.ask(photo, QUESTION, pruning=request)
