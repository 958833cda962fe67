"""A ROS 2 node that answers questions about the newest image; its callbacks never wait for the model."""

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any, cast

try:
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image
    from std_msgs.msg import String
except ImportError as error:
    raise ImportError('rclpy is missing: source your ROS 2 setup, or pip install "glimpse-edge[ros2]"') from error

from glimpse_runtime.adapters.raw import raw_image
from glimpse_runtime.adapters.worker import QuestionWorker
from glimpse_runtime.errors import GlimpseError, ImageError
from glimpse_runtime.inputs.frames import Frame
from glimpse_runtime.pruning.options import Pruning
from glimpse_runtime.session.loading import load

NEWEST_ONLY = QoSProfile(depth=1, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)
_MAX_NEW_TOKENS = 64
_REFUSALS_EVERY_S = 1.0


class StampedImage:
    """The pixels of a ``sensor_msgs/Image``, an image to the runtime, and the header they came with."""

    def __init__(self, message: Any) -> None:
        """Looks at the message's bytes without a copy; raises ``ImageError`` where they are not an image."""
        self.header = message.header
        self._pixels = raw_image(message.data, message.height, message.width, message.encoding, message.step)
        self.__array_interface__ = self._pixels.__array_interface__


class GlimpseNode:
    """Subscribes ``image``, ``question``; publishes ``answer``, ``answer/stream``, ``answer/json``, ``answer/error``.

    Every question is answered once, about the newest image; a question before the first image waits for it.
    Parameters, read at the start: ``bundle`` (folder; empty is the packaged pocket model), ``timeout_s`` (seconds
    per answer; 0 is no deadline), ``max_keep_ratio`` (share of visual tokens, 0..1; 0 is the bundle's own).

    Attributes:
        node: the rclpy node, to spin.
        crashed: whether the thread that answers ended by an unexpected error.
    """

    def __init__(self) -> None:
        """Loads the bundle and joins the graph; ``rclpy.init`` comes before.

        Raises:
            GlimpseError: the bundle cannot be used, or a parameter is out of its range.
        """
        self.crashed = False
        self.node = node = rclpy.create_node("glimpse")
        self._timeout_s = node.declare_parameter("timeout_s", 2.0).value or None
        self._pruning = Pruning(max_keep_ratio=node.declare_parameter("max_keep_ratio", 0.0).value or None)
        self._vlm = load(node.declare_parameter("bundle", "").value or None, scene_cache_bytes=0)
        self._refused_s = float("-inf")
        self._answer = node.create_publisher(String, "answer", 10)
        self._stream = node.create_publisher(String, "answer/stream", 100)
        self._json = node.create_publisher(String, "answer/json", 10)
        self._error = node.create_publisher(String, "answer/error", 10)
        self._worker = QuestionWorker(self._ask, self._refuse, self._crash)
        node.create_subscription(Image, "image", self._on_image, NEWEST_ONLY)
        node.create_subscription(String, "question", lambda message: self._worker.ask(message.data), 10)

    def close(self) -> None:
        """Ends the running answer, leaves the graph and frees the model; call it when nothing spins any more."""
        self._vlm.cancel()
        self._worker.close()
        self._vlm.close()
        self.node.destroy_node()

    def _on_image(self, message: Any) -> None:
        try:
            image = cast(Any, StampedImage(message))
            self._worker.frames.put(image, message.encoding, self._taken_s(message.header.stamp))
        except ImageError as error:
            if time.monotonic() - self._refused_s > _REFUSALS_EVERY_S:
                self._refused_s = time.monotonic()
                self._refuse(str(error))

    def _taken_s(self, stamp: Any) -> float:
        """When an image was taken, in seconds of ``time.monotonic()``; now if its header does not tell."""
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        age_s = (self.node.get_clock().now().nanoseconds - stamp_ns) / 1e9 if stamp_ns else 0.0
        return time.monotonic() - max(age_s, 0.0)

    def _ask(self, frame: Frame, question: str) -> None:
        answer = self._vlm.ask(
            frame, question, pruning=self._pruning, timeout=self._timeout_s, max_new_tokens=_MAX_NEW_TOKENS
        )
        for piece in answer:
            _publish(self._stream, piece)
        header = cast(StampedImage, frame.image).header
        facts = {
            "question": question,
            "answer": answer.text,
            "finish_reason": answer.finish_reason,
            "stamp": {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec},
            "frame_id": header.frame_id,
            "frame_age_ms": answer.frame_age_ms,
            "ttft_ms": answer.stats.ttft_ms,
            "kept": answer.pruning.kept,
            "total": answer.pruning.total,
            "dropped_frames": self._worker.frames.dropped,
        }
        _publish(self._json, json.dumps(facts, ensure_ascii=False))
        _publish(self._answer, answer.text)

    def _refuse(self, why: str) -> None:
        self.node.get_logger().error(why)
        _publish(self._error, why)

    def _crash(self) -> None:
        """Ends the process by ending ``spin``: a node that hears and never answers helps nobody."""
        self.crashed = rclpy.ok()
        rclpy.try_shutdown()


def _publish(publisher: Any, text: str) -> None:
    """Publishes a ``std_msgs/String``; the wire format ends it at the first NUL, so none may be inside."""
    try:
        publisher.publish(String(data=text.replace("\0", "\ufffd")))
    except Exception:
        if rclpy.ok():  # otherwise the graph was left while the answer was on its way
            raise


def main(args: Sequence[str] | None = None) -> None:
    """Runs the node until it is interrupted; ``args`` are those of ROS (``--ros-args ...``), None is ``sys.argv``."""
    rclpy.init(args=args)
    try:
        node = GlimpseNode()
    except GlimpseError as error:
        raise SystemExit(f"Error: {error}") from None
    executor = SingleThreadedExecutor()
    executor.add_node(node.node)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        while rclpy.ok():
            executor.spin_once(timeout_sec=0.5)  # a wait without a limit may sleep through a signal to end
    node.close()
    rclpy.try_shutdown()
    raise SystemExit(int(node.crashed))
