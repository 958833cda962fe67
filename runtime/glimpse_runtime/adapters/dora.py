"""A dora node that answers questions about the newest image."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    import pyarrow as pa
    from dora import Node
except ImportError as error:
    raise ImportError('the dora node needs dora-rs and pyarrow: pip install "glimpse-edge[dora]"') from error

from glimpse_runtime.adapters.raw import raw_image
from glimpse_runtime.errors import GlimpseError, ImageError
from glimpse_runtime.inputs.frames import Frame
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.session.loading import load
from glimpse_runtime.session.session import Session

_MAX_NEW_TOKENS = 64


def run(bundle: Path | None = None, timeout: float | None = 2.0, max_keep_ratio: float | None = None) -> None:
    """Answers until all inputs are closed or the dataflow stops.

    Inputs: ``image``, an Arrow array of uint8 with metadata ``width`` and ``height`` (pixels) and ``encoding`` (such
    as ``rgb8``), optionally ``step`` (bytes per row); give it ``queue_size: 1``, so that images which arrive during
    an answer replace each other. ``question``, an Arrow array with one string: answered once, about the newest image.
    Outputs: ``answer``, an Arrow array with one string, and ``error``, a text about an input that cannot be used.
    The metadata of ``answer`` are those of the image and what is known about the answer.

    Args:
        bundle: the bundle's folder; None is the packaged pocket model.
        timeout: seconds per answer; None for no deadline.
        max_keep_ratio: at most this share of visual tokens; None is the bundle's own.

    Raises:
        BundleError: the bundle cannot be used.
    """
    pruning = Pruning(max_keep_ratio=max_keep_ratio)
    with load(bundle, scene_cache_bytes=0) as vlm:
        node = Node()
        frame: Frame | None = None
        facts: Mapping[str, Any] = {}
        waiting: list[str] = []
        for event in node:
            if event["type"] == "STOP":
                break
            if event["type"] != "INPUT":
                continue
            try:
                if event["id"] == "image":
                    frame, facts = to_frame(event["value"].to_numpy(), event["metadata"]), event["metadata"]
                elif event["id"] == "question":
                    waiting.append(event["value"][0].as_py())
                while frame is not None and waiting:
                    _answer(node, vlm, frame, facts, waiting.pop(0), pruning, timeout)
            except GlimpseError as error:
                node.send_output("error", pa.array([str(error)]))


def to_frame(pixels: Any, metadata: Mapping[str, Any]) -> Frame:
    """Returns an image input as a frame, stamped now.

    Args:
        pixels: one-dimensional uint8 array.
        metadata: ``width``, ``height``, ``encoding`` and perhaps ``step``.

    Raises:
        ImageError: metadata are missing, or they do not fit the pixels.
    """
    missing = [name for name in ("width", "height", "encoding") if name not in metadata]
    if missing:
        raise ImageError(f"the image's metadata lack {', '.join(missing)}")
    encoding = metadata["encoding"]
    image = raw_image(pixels, metadata["height"], metadata["width"], encoding, metadata.get("step", 0))
    return Frame(image, encoding, time.monotonic())


def _answer(
    node: Node,
    vlm: Session,
    frame: Frame,
    facts: Mapping[str, Any],
    question: str,
    pruning: Pruning,
    timeout: float | None,
) -> None:
    answer = vlm.ask(frame, question, pruning=pruning, timeout=timeout, max_new_tokens=_MAX_NEW_TOKENS)
    text = answer.text
    known = {
        "question": question,
        "finish_reason": answer.finish_reason,
        "kept": answer.pruning.kept,
        "total": answer.pruning.total,
        "frame_age_ms": answer.frame_age_ms,
    }
    node.send_output("answer", pa.array([text]), {**facts, **known})
