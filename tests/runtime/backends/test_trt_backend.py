"""The TensorRT backend, whole answers and golden vectors, on a stand-in of CUDA and TensorRT."""

from collections.abc import Iterator
from pathlib import Path

import conformance
import pytest
from stand_ins.fake_cuda import FakeDriver
from stand_ins.gpu_stand_in import build, plug_in
from support.places import GOLDEN

from glimpse_runtime.bundle.bundle import Bundle

CASES = sorted(path.stem for path in (GOLDEN / "cases").glob("*.npz"))
# What is installed, the dialect that follows, and whether the KV cache is updated in place.
MACHINES = [("tensorrt", "10.3.0"), ("tensorrt", "10.15.1"), ("tensorrt", "11.1.0"), ("tensorrt-rtx", "1.7.1")]


@pytest.fixture(params=MACHINES, ids=lambda machine: " ".join(machine))
def machine(
    request: pytest.FixtureRequest, fake_tensorrt: pytest.MonkeyPatch, traced_bundle: Path
) -> Iterator[tuple[str, FakeDriver]]:
    """A target with its engines built, and the fake device; nothing may be left on it."""
    target, version = request.param
    runtime = plug_in(fake_tensorrt, target, version)
    build(fake_tensorrt, traced_bundle, target)
    yield target, runtime
    assert runtime.device.leaks() == []


@pytest.mark.parametrize("name", CASES)
def test_golden_vectors(machine: tuple[str, FakeDriver], golden: Path, traced_bundle: Path, name: str) -> None:
    result = conformance.run_case(golden, name, Bundle.open(traced_bundle), device=machine[0])
    assert not result.problems
    assert result.compared >= 14
