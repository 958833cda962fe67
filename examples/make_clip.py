"""Draws the clip of coloured shapes that ``video_loop.py`` asks about.

python examples/make_clip.py [FILE]

Motion JPEG in an AVI file: OpenCV reads and writes it by itself, on every platform.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, FRAMES, FPS = 224, 168, 36, 12.0
GREY, RED, BLUE = (200, 200, 200), (40, 40, 220), (220, 80, 30)  # bgr8


def draw(number: int) -> np.ndarray:
    """Returns frame ``number``: a red circle crosses, and from the middle on a blue square goes the other way."""
    frame = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
    place = number / (FRAMES - 1)
    cv2.circle(frame, (int(30 + place * (WIDTH - 60)), 50), 24, RED, cv2.FILLED, cv2.LINE_AA)
    if number >= FRAMES // 2:
        left = int(150 - place * 120)
        cv2.rectangle(frame, (left, 100), (left + 44, 144), BLUE, cv2.FILLED)
    return frame


def main(path: Path) -> None:
    """Writes the clip."""
    quality = [cv2.VIDEOWRITER_PROP_QUALITY, 80]
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, fourcc, FPS, (WIDTH, HEIGHT), quality)
    for number in range(FRAMES):
        writer.write(draw(number))
    writer.release()
    print(f"{path}: {FRAMES} frames, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("clip.avi"))
