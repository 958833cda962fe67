"""Builds that would not fit are refused before they start."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from glimpse_export.cli.export import run
from glimpse_export.cli.request import export_options
from glimpse_export.engines import memory
from glimpse_export.engines.memory import (
    BuildMemory,
    Weights,
    available_bytes,
    build_memory,
    read_weights,
    require_memory,
    scratch_bytes,
)
from glimpse_export.errors import BuildError
from glimpse_export.forecast.budget import require_fit
from glimpse_export.planning.boards import BOARDS, parse_budget
from glimpse_export.planning.known import known_plan
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import Profile
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.engines.flavours import flavour_of
from glimpse_runtime.engines.gpu import Gpu

GIB = 1 << 30
ONE_GIB = Weights(GIB)
ORIN = Gpu("Orin", (8, 7), 8 * GIB, True)
ADA = Gpu("NVIDIA RTX 4070", (8, 9), 12 * GIB, False)
RTX, FULL, OLD = (flavour_of(*row) for row in (("tensorrt-rtx", "1.7"), ("tensorrt", "10.15"), ("tensorrt", "10.3")))


# Bytes of weights, of the largest matrix of integers; MiB at most, with the weights' file, which is mapped.
MEASURED = [
    (37_812_736, 0, 431),
    (234_323_968, 0, 892),
    (154_164_224, 0, 674),
    (776_511_488, 0, 1865),
    (122_040_320, 4_378_000, 673),
    (40_000_000, 11_272_192, 432),
    (239_984_640, 155_582_464, 1357),
    (308_350_976, 0, 1050),
    (930_672_640, 0, 2234),
    (1_338_400_000, 0, 4035),
    (954_600_000, 11_272_192, 3264),
    (637_600_000, 77_791_232, 2623),
]


def test_the_estimate_covers_what_was_measured() -> None:
    """TensorRT-RTX 1.7.1 on a CPU, figures of docs/bundle/tensorrt.md."""
    for total, integer, peak_mib in MEASURED:
        peak = (peak_mib << 20) - total
        assert peak <= build_memory(Weights(total, integer), RTX, None).host_bytes <= 1.9 * peak


def test_shared_memory_counts_once_and_a_gpus_own_apart() -> None:
    on_board, on_desktop = build_memory(ONE_GIB, FULL, ORIN), build_memory(ONE_GIB, FULL, ADA)
    assert on_board.host_bytes > on_desktop.host_bytes
    assert on_board.gpu_bytes == on_desktop.gpu_bytes > GIB
    assert build_memory(ONE_GIB, OLD, ORIN).host_bytes > on_board.host_bytes, "a whole copy of the engine"
    assert build_memory(ONE_GIB, RTX, ADA).gpu_bytes == 0


def test_too_little_memory_is_refused_with_advice() -> None:
    with pytest.raises(BuildError) as caught:
        require_memory("upper", BuildMemory(9 * GIB, 0), 6 * GIB, ORIN)
    text = str(caught.value)
    assert text.startswith("upper: building this engine would need about 9.0 GiB of memory, there are 6.0 GiB")
    for word in ("--precision int4", "--head-parts 2", "--max-context", "--max-visual-tokens", "swap", "--budget"):
        assert word in text


def test_too_small_a_gpu_is_refused() -> None:
    with pytest.raises(BuildError, match=r"13\.0 GiB of GPU memory, NVIDIA RTX 4070 has 12\.0 GiB"):
        require_memory("upper", BuildMemory(GIB, 13 * GIB), 64 * GIB, ADA)


def test_what_fits_or_is_not_known_is_not_refused() -> None:
    require_memory("upper", BuildMemory(5 * GIB, 0), 6 * GIB, ORIN)
    require_memory("upper", BuildMemory(5 * GIB, 0), None, None)


def test_free_memory_is_read_with_swap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "_MEMINFO", table)
    table.write_text("MemTotal: 8000000 kB\nMemAvailable: 3000000 kB\nSwapTotal: 9 kB\nSwapFree: 1000000 kB\n")
    assert available_bytes() == 4_000_000 << 10
    table.write_text("MemTotal: 8000000 kB\n")
    assert available_bytes() is None
    table.unlink()
    assert available_bytes() is None


def test_weights_are_counted_once() -> None:
    """Of pocket: every graph reads less than its file of weights has, the one of the vision encoder almost all."""
    onnx = pytest.importorskip("onnx")
    folder = packaged_bundle()
    assert 0.95 < read_weights(folder / "vision.onnx").total_bytes / (folder / "vision.data").stat().st_size <= 1
    graph = onnx.load_model(str(folder / "upper.onnx"), load_external_data=True).graph
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    large = sum(array.nbytes for array in arrays if array.size > 1000)
    assert large <= read_weights(folder / "upper.onnx").total_bytes <= sum(np.asarray(array).nbytes for array in arrays)


@pytest.mark.parametrize(("tokens", "gigabytes"), [(1024, 1.61), (3584, 19.73)])
def test_spelled_attention_is_bounded_by_the_largest_image(tokens: int, gigabytes: float) -> None:
    """Sixteen heads of 80, every patch with every other, four bytes before the softmax and two behind it."""
    manifest = Bundle.open(packaged_bundle()).manifest
    patches = Profile(4, 1024, 4 * tokens)
    vision = dataclasses.replace(manifest.vision, hidden_size=1280)
    profiles = {**manifest.profiles, "patches": patches}
    made = dataclasses.replace(manifest, vision=vision, profiles=profiles, family={**manifest.family, "head_dim": 80})
    scratch = scratch_bytes(made, "vision", "plain")
    assert scratch / 1e9 == pytest.approx(gigabytes, rel=0.01)
    assert scratch_bytes(made, "vision", "opset24") == scratch_bytes(made, "score", "plain") == GIB
    small, large = (build_memory(ONE_GIB, FULL, ORIN, nbytes) for nbytes in (GIB, scratch))
    assert large.host_bytes - small.host_bytes == scratch - GIB


def test_scores_of_a_long_context_count_as_well() -> None:
    manifest = Bundle.open(packaged_bundle()).manifest
    long = {**manifest.profiles, "rows": Profile(1, 64, 1 << 20), "context": Profile(1, 64, 1 << 20)}
    scratch = scratch_bytes(dataclasses.replace(manifest, profiles=long), "lower", "plain")
    assert scratch == manifest.text.heads * 512 * (1 << 20) * 6


@pytest.mark.parametrize("board", [name for name, found in BOARDS.items() if found.memory_gib > 4])
def test_every_board_but_the_smallest_has_room_for_the_3b(board: str) -> None:
    """From the largest profiles, attention spelled out where the board may get ``plain``."""
    words = run.make_context("glimpse-export", ["--model", "qwen2.5-vl-3b", "--board", board]).params
    options = export_options(dict(words))
    plan = known_plan(options)
    assert plan is not None
    require_fit(plan, parse_budget(board))
