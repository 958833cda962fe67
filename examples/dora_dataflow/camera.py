"""A dora node in place of a camera: draws a circle that moves, and asks about it once a second."""

import numpy as np
import pyarrow as pa
from dora import Node
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 224, 168
QUESTION = "What colour is the circle?"


def draw(number: int) -> np.ndarray:
    """Returns picture ``number``, (height, width, 3) uint8."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), (200, 200, 200))
    left = number * 8 % (WIDTH - 50)
    ImageDraw.Draw(picture).ellipse((left, 50, left + 50, 100), fill=(220, 40, 40))
    return np.asarray(picture)


def main() -> None:
    """Sends a picture at every tick, and at every tenth the question."""
    node = Node()
    number = 0
    for event in node:
        if event["type"] == "STOP":
            break
        if event["type"] == "INPUT":
            metadata = {"width": WIDTH, "height": HEIGHT, "encoding": "rgb8", "number": number}
            node.send_output("image", pa.array(draw(number).reshape(-1)), metadata)
            if number % 10 == 0:
                node.send_output("question", pa.array([QUESTION]))
            number += 1


if __name__ == "__main__":
    main()
