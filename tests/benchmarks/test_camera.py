"""The camera that stands still, and what is measured with it."""

import json
import runpy
import sys
from random import Random

import numpy as np
import pytest
from support.places import ROOT

pytest.importorskip("onnxruntime")

from benchmarks.accuracy import camera
from benchmarks.accuracy.camera import WAYS, Seen
from glimpse_models.pocket.camera import Camera


def test_only_an_object_changes_between_frames() -> None:
    still = Camera(Random(3), 448, 448, 0.0)
    before = still.shot()
    assert np.array_equal(still.shot().image, before.image)
    for _ in range(8):
        still.change()
        after = still.shot()
        moved = [pair for pair in zip(before.objects, after.objects, strict=True) if pair[0] != pair[1]]
        assert len(moved) == 1
        outside = np.ones((448, 448), np.bool_)
        for left, top, right, bottom in (item.box for item in moved[0]):
            outside[top:bottom, left:right] = False
        assert np.array_equal(np.asarray(after.image)[outside], np.asarray(before.image)[outside])
        assert not np.array_equal(after.image, before.image)
        before = after


def test_noise_is_as_strong_as_said_and_new_in_every_frame() -> None:
    """Where the picture is far from black and white."""
    noisy, still = Camera(Random(3), 448, 448, 3.0), np.asarray(Camera(Random(3), 448, 448, 0.0).shot().image, np.int64)
    first, second = (np.asarray(noisy.shot().image, np.int64) for _ in range(2))
    middle = (still > 20) & (still < 235)
    assert (first - still)[middle].std() == pytest.approx(3, rel=0.05)
    assert (first - second)[middle].std() == pytest.approx(3 * 2**0.5, rel=0.05)


def test_the_summary_compares_with_the_whole_encode() -> None:
    right = {way: [True, True] for way in WAYS}
    seen = [
        Seen(256, [0.1, 0.3], [0.02, 0.04], {**right, "stream": [True, False]}, [0.5, 1.0]),
        Seen(256, [0.0, 0.2], [0.0, 0.02], {**right, "first": [False, False]}, [0.25, 0.25]),
    ]
    found = camera.summary(seen, 0)
    assert (found["questions"], found["accuracy_full"], found["accuracy_stream"]) == (4, 1.0, 0.75)
    assert found["to_full"]["stream"] == {"mean": -0.25, "interval": (-0.5, 0.0)}
    assert found["to_full"]["first"]["mean"] == -0.5
    assert found["vision_share"] == pytest.approx(0.15)
    assert found["entered_share"] == 0.5
    assert found["drift"] == pytest.approx([0.01, 0.03])
    assert found["error"] == pytest.approx(0.02)


@pytest.mark.slow
def test_the_command_measures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["camera.py", "--scenes", "2", "--frames", "3", "--json"])
    runpy.run_path(str(ROOT / "benchmarks/accuracy/camera.py"), run_name="__main__")
    report = json.loads(capsys.readouterr().out)
    assert 0 < report["vision_share"] < 0.6
    assert 0 < report["error"] < 0.2
    assert len(report["drift"]) == 2
    assert report["accuracy_full"] >= report["accuracy_stream"] - 0.3
    assert [row["tokens"] for row in report["rows"]] == [256, 391]
    monkeypatch.setattr(sys, "argv", ["camera.py", "--scenes", "1", "--frames", "2"])
    runpy.run_path(str(ROOT / "benchmarks/accuracy/camera.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("| tokens | questions | vision |")


@pytest.mark.slow
def test_errors_alone_need_no_answers() -> None:
    quiet, noisy = (camera.errors(None, 1, 3, sigma, 0) for sigma in (0.0, 2.0))
    assert quiet["noise"] == 0 < noisy["noise"] < 0.1
    assert 0 < quiet["error"] < noisy["error"] < 0.2
    assert len(quiet["drift"]) == 2
    assert 0 < quiet["vision_share"] < 0.6


@pytest.mark.parametrize("words", [["--scenes", "0"], ["--frames", "1"], ["--sigma", "-1"]], ids=" ".join)
def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["camera.py", *words])
    with pytest.raises(SystemExit):
        camera.main()
