"""Video files read with OpenCV, and the example's loop over the clip that ships."""

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.places import ROOT

from glimpse_runtime import InputError, LatestFrame

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (extra video)")
pytestmark = pytest.mark.robots

CLIP = ROOT / "examples" / "clip.avi"
FRAMES, FPS = 36, 12.0


def test_a_patient_reader_gets_every_frame_at_the_pace_of_the_file() -> None:
    from glimpse_runtime.adapters.video import Video

    box, stamps = LatestFrame(), []
    with Video(CLIP, box) as video:
        while (frame := box.get()) is not None:
            stamps.append(frame.stamp)
            assert frame.encoding == "bgr8"
            assert np.asarray(frame.image).shape == (168, 224, 3)
    assert video.fps == FPS
    assert video.frames_read == FRAMES == len(stamps) + box.dropped
    assert stamps[-1] - stamps[0] == pytest.approx((FRAMES - 1) / FPS, abs=0.5)


def test_a_slow_reader_gets_the_newest_frames_and_the_last() -> None:
    from glimpse_runtime.adapters.video import Video

    box, frames = LatestFrame(), []
    with Video(CLIP, box) as video:
        while (frame := box.get()) is not None:
            frames.append(np.asarray(frame.image))
            time.sleep(0.5)
    assert video.frames_read == FRAMES == len(frames) + box.dropped
    assert 3 <= len(frames) <= 9
    blue, _, red = frames[-1][50, 224 - 31].astype(int)  # where the circle ends, as bgr8
    assert red > 180 > 90 > blue


def test_closing_early_from_either_side() -> None:
    from glimpse_runtime.adapters.video import Video

    box = LatestFrame()
    with Video(CLIP, box) as video:
        assert box.get() is not None
    assert video.frames_read < FRAMES
    box = LatestFrame()
    with Video(CLIP, box):
        box.close()


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    from glimpse_runtime.adapters.video import Video

    with pytest.raises(InputError, match="no video file"):
        Video(tmp_path / "none.avi", LatestFrame())
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(InputError, match="cannot open"):
        Video(tmp_path / "text.avi", LatestFrame())


def test_the_example_runs_to_the_end_of_the_clip() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "video_loop.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    *answers, end = done.stdout.splitlines()
    assert len(answers) >= 1
    dropped = 0
    for line in answers:
        found = re.search(r"\((\w+)\), kept (\d+)/(\d+), frame age (\d+) ms, dropped (\d+)$", line)
        assert found, line
        reason, kept, total, age_ms, dropped_now = found[1], *map(int, found.groups()[1:])
        assert reason in ("stop", "length", "deadline")
        assert 0 < kept <= total
        assert 0 < age_ms < 5000
        assert dropped_now >= dropped
        dropped = dropped_now
    assert end == f"end: {FRAMES} frames at 12 per second, dropped {FRAMES - len(answers)}"


def test_the_clip_is_what_the_script_draws(tmp_path: Path) -> None:
    assert CLIP.stat().st_size < 200_000
    subprocess.run([sys.executable, str(ROOT / "examples" / "make_clip.py"), str(tmp_path / "clip.avi")], check=True)
    made, shipped = (cv2.VideoCapture(str(path)) for path in (tmp_path / "clip.avi", CLIP))
    for _ in range(FRAMES):
        (good, frame), (_, other) = made.read(), shipped.read()
        assert good
        assert np.abs(frame.astype(int) - other).max() <= 8
    assert not made.read()[0]
