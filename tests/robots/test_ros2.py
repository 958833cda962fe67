"""The ROS 2 node of the examples, talked to over real topics: rclpy, DDS on the loopback interface."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.places import ROOT

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed (extra ros2, or a sourced ROS 2)")
pytestmark = [pytest.mark.robots, pytest.mark.filterwarnings("ignore::DeprecationWarning:lark")]

QUESTION = "What colour is the circle?"
DISCOVERY = {"ROS_DOMAIN_ID": "87", "ROS_LOCALHOST_ONLY": "1", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


class Client:
    """A robot program on the other side of the topics."""

    def __init__(self) -> None:
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image
        from std_msgs.msg import String

        self.node = rclpy.create_node("client")
        self.heard: dict[str, list[str]] = {}
        self.images = self.node.create_publisher(Image, "image", qos_profile_sensor_data)
        self.questions = self.node.create_publisher(String, "question", 10)
        for topic in ("answer", "answer/stream", "answer/json", "answer/error"):
            self.heard[topic] = []
            self.node.create_subscription(String, topic, lambda m, t=topic: self.heard[t].append(m.data), 100)

    def spin_until(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"heard only {self.heard}"
            rclpy.spin_once(self.node, timeout_sec=0.05)

    def film(self, condition: Callable[[], object], frame: np.ndarray, encoding: str, **more: int) -> None:
        """Publishes a frame as a camera does, again and again: with best effort one of them may be lost."""

        def publish_and_look() -> object:
            self.publish(frame, encoding, **more)
            return condition()

        self.spin_until(publish_and_look)

    def publish(self, frame: np.ndarray, encoding: str, padding: int = 0, sec: int = 0) -> None:
        from sensor_msgs.msg import Image

        height, width, channels = frame.shape
        rows = np.pad(frame.reshape(height, -1), ((0, 0), (0, padding)), constant_values=255)
        message = Image(height=height, width=width, encoding=encoding, step=width * channels + padding)
        message.header.stamp.sec = sec
        message.header.stamp.nanosec = 5
        message.header.frame_id = "camera"
        message.data = rows.tobytes()
        self.images.publish(message)

    def ask(self, question: str) -> None:
        from std_msgs.msg import String

        self.questions.publish(String(data=question))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client, connected to a running node of the example."""
    os.environ.update(DISCOVERY)
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        str(ROOT / "examples" / "ros2_node.py"),
        "--ros-args",
        "-p",
        "timeout_s:=20.0",
    ]
    rclpy.init()
    client = Client()
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        client.spin_until(
            lambda: (
                client.images.get_subscription_count() == client.questions.get_subscription_count() == 1
                and all(client.node.count_publishers(topic) == 1 for topic in client.heard)
            )
        )
        yield client
    finally:
        client.node.destroy_node()
        rclpy.shutdown()
        running.terminate()
        try:
            _, errors = running.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGABRT)  # faulthandler tells where it hangs
            _, errors = running.communicate()
        assert running.returncode == 0, errors
        assert "Traceback" not in errors, errors


def test_answers_are_those_of_the_library(client: Client, pocket: object, photo: np.ndarray) -> None:
    """Padded rows are skipped, the order of channels is honoured, pieces add up, the stamp comes back."""
    client.ask(QUESTION)
    expected = pocket.ask(photo, QUESTION, max_new_tokens=64)  # type: ignore[attr-defined]
    pieces = [piece.replace("\0", "\ufffd") for piece in expected]
    heard = client.heard
    client.film(
        lambda: heard["answer"] and heard["answer/json"] and len(heard["answer/stream"]) >= len(pieces),
        photo[..., ::-1],
        "bgr8",
        padding=13,
        sec=1_700_000_000,
    )
    assert client.heard["answer"] == ["".join(pieces)]
    assert client.heard["answer/stream"] == pieces
    facts = json.loads(client.heard["answer/json"][0])
    assert facts["answer"] == expected.text
    assert facts["question"] == QUESTION
    assert facts["finish_reason"] == expected.finish_reason
    assert (facts["stamp"], facts["frame_id"]) == ({"sec": 1_700_000_000, "nanosec": 5}, "camera")
    assert (facts["kept"], facts["total"]) == (expected.pruning.kept, expected.pruning.total)
    assert facts["frame_age_ms"] > 1e9
    assert not client.heard["answer/error"]


def test_unusable_images_are_refused_in_words_and_the_node_lives_on(client: Client, photo: np.ndarray) -> None:
    client.film(lambda: client.heard["answer/error"], np.zeros((4, 4, 2), np.uint8), "yuv422_yuy2")
    assert "'yuv422_yuy2'" in client.heard["answer/error"][0]
    assert "rgb8" in client.heard["answer/error"][0]
    client.heard["answer"].clear()
    client.ask("How many stars are there?")
    client.film(lambda: client.heard["answer"], photo, "rgb8")


def test_the_newest_image_is_asked_about(client: Client, photo: np.ndarray) -> None:
    """While the node answers, images come faster than answers: the next answer is about the last of them."""

    def heard() -> list[dict[str, Any]]:
        everything = [json.loads(facts) for facts in client.heard["answer/json"]]
        return [facts for facts in everything if facts["question"] == "Is there a star?"]

    for _ in range(3):
        client.ask("Is there a star?")
    sent = 0
    while len(heard()) < 3:
        sent += 1
        client.publish(photo, "rgb8", sec=1_700_000_100 + sent)
        rclpy.spin_once(client.node, timeout_sec=0.03)
        assert sent < 1500, client.heard
    stamps = [facts["stamp"]["sec"] for facts in heard()]
    assert stamps[1] < stamps[2]
    assert stamps[2] > 1_700_000_101
    assert heard()[2]["dropped_frames"] > 0
