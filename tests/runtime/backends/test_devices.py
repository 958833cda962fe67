"""Devices by name, and what a user is told who has not got one."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from support.commands import Command, assert_one_clear_line
from support.places import FAKE_TENSORRT

from glimpse_runtime import BackendError, load
from glimpse_runtime.devices import DEVICES, installed_devices

RUN = "glimpse_runtime.cli.run"
QUESTION = "What colour is the circle?"


def test_an_unknown_device_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(BackendError, match="unknown device 'tpu'; this version has: cpu, cuda, tensorrt, tensorrt-rtx"):
        load(device="tpu")


def test_version_says_what_is_installed(command: Command) -> None:
    words = command(RUN, "--version").stdout
    for name in DEVICES:
        expected = name if name in installed_devices() else f"{name} (not installed)"
        assert expected in words.split("devices: ")[1].strip().split(", ")


def test_installed_means_all_of_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "onnxruntime" else None)
    monkeypatch.setattr("importlib.metadata.version", missing)
    assert installed_devices() == ("cpu",)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.31")
    assert installed_devices() == ("cpu", "cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert installed_devices() == tuple(DEVICES)


def missing(name: str) -> str:
    raise PackageNotFoundError(name)


@pytest.mark.parametrize("device", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_that_is_not_installed_is_one_line_with_the_command(command: Command, device: str) -> None:
    """Also where it is installed: then there is no GPU for it."""
    done = command(RUN, "--device", device, QUESTION)
    assert_one_clear_line(done)
    assert any(hint in done.stderr for hint in ("pip install", "no CUDA device", "nvidia-smi", "driver"))


@pytest.mark.parametrize("device", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_without_a_gpu_is_one_line(command: Command, device: str) -> None:
    done = command(RUN, "--device", device, QUESTION, PYTHONPATH=":".join([str(FAKE_TENSORRT), *sys.path]))
    assert_one_clear_line(done)


def test_the_device_may_come_from_the_environment(command: Command, tmp_path: Path) -> None:
    done = command(RUN, QUESTION, GLIMPSE_DEVICE="abacus")
    assert_one_clear_line(done, "abacus", code=2)


def test_threads_make_no_sense_with_tensorrt(command: Command) -> None:
    assert_one_clear_line(command(RUN, "--device", "tensorrt", "--threads", "1", QUESTION), "threads are for")
