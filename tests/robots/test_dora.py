"""The dataflow of the examples under a real dora daemon, with a listener that writes down what it hears."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.places import ROOT

pytest.importorskip("dora", reason="dora-rs is not installed (extra dora; Python 3.11 or later)")
pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra dora)")
pytestmark = pytest.mark.robots

LISTENER_NODE = """
  - id: listener
    path: listener.py
    inputs:
      answer: glimpse/answer
      error: glimpse/error
"""

LISTENER = """
import json
from dora import Node

with open("heard.jsonl", "a") as file:
    for event in Node():
        if event["type"] == "STOP":
            break
        if event["type"] == "INPUT":
            numbers = {name: value for name, value in event["metadata"].items() if isinstance(value, (str, int, float))}
            print(json.dumps({"id": event["id"], "text": event["value"][0].as_py(), **numbers}), file=file, flush=True)
"""

BAD_CAMERA = """
import pyarrow as pa
from dora import Node

node = Node()
for event in node:
    if event["type"] == "STOP":
        break
    if event["type"] == "INPUT":
        node.send_output("image", pa.array([0] * 8, pa.uint8()), {"width": 2, "height": 2, "encoding": "yuv422"})
"""


def hear(folder: Path, count: int, timeout_s: float = 60.0) -> list[dict[str, object]]:
    """Runs the folder's dataflow until its listener has heard ``count`` outputs of the glimpse node."""
    (folder / "listener.py").write_text(LISTENER)
    flow = folder / "dataflow.yml"
    flow.write_text(flow.read_text() + LISTENER_NODE)
    dora = shutil.which("dora", path=str(Path(sys.executable).parent)) or shutil.which("dora")
    if dora is None:
        pytest.skip("there is no dora command (package dora-rs-cli)")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    log, heard = folder / "log.txt", folder / "heard.jsonl"
    with log.open("w") as output:
        running = subprocess.Popen(
            [dora, "run", str(flow)], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            end = time.monotonic() + timeout_s
            while not heard.exists() or heard.read_text().count("\n") < count:
                assert running.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            running.send_signal(signal.SIGINT)
            assert running.wait(30) == 0, log.read_text()
        finally:
            running.kill()
            running.wait()
    return [json.loads(line) for line in heard.read_text().splitlines()]


@pytest.fixture
def dataflow(tmp_path: Path) -> Path:
    """A copy of the example's folder."""
    return Path(shutil.copytree(ROOT / "examples" / "dora_dataflow", tmp_path / "dataflow"))


def test_every_question_gets_one_answer_about_the_newest_image(dataflow: Path, pocket: object) -> None:
    sys.path.insert(0, str(dataflow))
    try:
        from camera import QUESTION, draw  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(dataflow))
    flow = dataflow / "dataflow.yml"
    flow.write_text(flow.read_text().replace("--timeout 1.0", "--timeout 30.0"))
    heard = hear(dataflow, 3)
    assert {item["id"] for item in heard} == {"answer"}
    numbers = [item["number"] for item in heard]
    assert numbers == sorted(numbers)
    for item in heard[:3]:
        expected = pocket.ask(draw(item["number"]), QUESTION, max_new_tokens=64)  # type: ignore[attr-defined]
        assert item["question"] == QUESTION
        assert (item["text"], item["finish_reason"]) == (expected.text, expected.finish_reason)
        assert (item["kept"], item["total"]) == (expected.pruning.kept, expected.pruning.total)
        assert (item["width"], item["height"], item["encoding"]) == (224, 168, "rgb8")
        assert 0 < item["frame_age_ms"] < 60_000  # type: ignore[operator]


def test_an_unusable_image_is_an_error_not_an_answer(dataflow: Path) -> None:
    (dataflow / "camera.py").write_text(BAD_CAMERA)
    heard = hear(dataflow, 1)
    assert {item["id"] for item in heard} == {"error"}
    assert "'yuv422'" in str(heard[0]["text"])
    assert "rgb8" in str(heard[0]["text"])
