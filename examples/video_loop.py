"""Asks one question about the newest frame of a video or camera, again and again until it ends.

python examples/video_loop.py [FILE or CAMERA NUMBER] [--question TEXT] [--timeout SECONDS] [--bundle DIR]
"""

from pathlib import Path

import click

from glimpse_runtime import LatestFrame, load
from glimpse_runtime.adapters.video import Video


@click.command()
@click.argument("source", default=str(Path(__file__).with_name("clip.avi")))
@click.option("--question", default="What colour is the circle?", help="What to ask about every frame.")
@click.option("--timeout", type=float, default=1.0, help="Seconds per answer.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle to ask; without it the packaged pocket model.")
def main(source: str, question: str, timeout: float, bundle: Path | None) -> None:
    """Runs the loop."""
    box = LatestFrame()
    camera_or_file = int(source) if source.isdecimal() else source
    with load(bundle, scene_cache_bytes=0) as vlm, Video(camera_or_file, box) as video:
        while (frame := box.get()) is not None:  # None: the video has ended
            answer = vlm.ask(frame, question, timeout=timeout, max_new_tokens=32)
            text = answer.text
            report = answer.pruning
            print(
                f"{text!r} ({answer.finish_reason}), kept {report.kept}/{report.total}, "
                f"frame age {answer.frame_age_ms:.0f} ms, dropped {box.dropped}",
                flush=True,
            )
    print(f"end: {video.frames_read} frames at {video.fps:.0f} per second, dropped {box.dropped}")


if __name__ == "__main__":
    main()
