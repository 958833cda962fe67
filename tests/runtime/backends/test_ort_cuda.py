"""The device ``cuda`` on a stand-in of CUDA and of onnxruntime's CUDA provider: numbers are those of the CPU."""

import sys
from collections.abc import Iterator
from pathlib import Path

import conformance
import numpy as np
import pytest
from stand_ins.fake_cuda import FakeDriver
from stand_ins.fake_cuda.ort import FakeOnnxRuntime
from stand_ins.gpu_stand_in import ORIN, put_in_gpu, put_in_kernels
from support.places import GOLDEN, ROOT

from glimpse_runtime import Answer, BackendError, Pruning, Sampling, Session, load
from glimpse_runtime.backends import ort_cuda
from glimpse_runtime.bundle import memory
from glimpse_runtime.bundle.bundle import Bundle

EXAMPLES = ROOT / "examples"
CASES = sorted(path.stem for path in (GOLDEN / "cases").glob("*.npz"))
QUESTIONS = [("shapes.png", "Tell me the colour of the cross."), ("plate.jpg", "What number is on the white plate?")]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    found = put_in_gpu(monkeypatch, ORIN)
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntime(found.device))
    yield found
    assert found.device.leaks() == []


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pocket in float32 with the KV cache of float16 that the CUDA provider needs."""
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    from glimpse_export import ExportOptions, export
    from glimpse_export.weights.precision import Precision

    made = ExportOptions("pocket", precision=Precision(kv_cache="fp16"), certify="off")
    return export(made, tmp_path_factory.mktemp("half") / "pocket")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden model with the outputs that tracing adds."""
    pytest.importorskip("onnx_ir")
    pytest.importorskip("torch")
    from support.bundles import options

    from glimpse_export import export

    return export(options(GOLDEN, trace=True), tmp_path_factory.mktemp("cuda") / "bundle")


@pytest.mark.parametrize("name", CASES)
def test_golden_vectors(runtime: FakeDriver, traced: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In float32 throughout, which the stand-in can and the real provider cannot."""
    monkeypatch.setattr(ort_cuda, "_CACHE_DTYPES", ("float32",))
    result = conformance.run_case(GOLDEN, name, Bundle.open(traced), device="cuda")
    assert not result.problems
    assert result.compared >= 14


def same(found: Answer, expected: Answer) -> None:
    assert found.text == expected.text
    assert found.token_ids == expected.token_ids
    for mask, other in zip(found.pruning.keep_masks, expected.pruning.keep_masks, strict=True):
        np.testing.assert_array_equal(mask, other)


def sessions(bundle: Path, **options: object) -> tuple[Session, Session]:
    return load(bundle, device="cuda", **options), load(bundle, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows_at_once", [16, 512])
@pytest.mark.parametrize("kernels", [False, True])
def test_answers_are_those_of_the_cpu(
    runtime: FakeDriver, half: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int, kernels: bool
) -> None:
    monkeypatch.setattr(memory, "ROWS_AT_ONCE", rows_at_once)
    if kernels:
        put_in_kernels(monkeypatch, runtime)
    vlm, reference = sessions(half)
    with vlm, reference:
        for image, question in QUESTIONS:
            for options in ({}, {"pruning": Pruning(enabled=False)}, {"sampling": Sampling(temperature=1.0, seed=1)}):
                same(
                    vlm.ask(EXAMPLES / image, question, **options), reference.ask(EXAMPLES / image, question, **options)
                )
        images = [EXAMPLES / image for image, _ in QUESTIONS]
        scene = vlm.encode(images)
        for _, question in QUESTIONS:
            same(scene.ask(question), reference.ask(images, question))
        same(vlm.ask([], "Hello"), reference.ask([], "Hello"))


def test_many_questions_take_no_more_memory_than_a_few(runtime: FakeDriver, half: Path) -> None:
    with load(half, device="cuda", scene_cache_bytes=0, max_pixels=112 * 112) as vlm:
        held = []
        for count in range(50):
            image, question = QUESTIONS[count % 2]
            assert vlm.ask(EXAMPLES / image, question, max_new_tokens=3).text is not None
            if count in (4, 49):
                held.append([runtime.device.held_bytes(kind) for kind in ("device", "pinned")])
        assert held[0] == held[1]
        assert vlm.memory_plan()["device_bytes"] == held[1][0]


def test_a_request_ends_at_its_deadline(runtime: FakeDriver, half: Path) -> None:
    with load(half, device="cuda") as vlm:
        late = vlm.ask(EXAMPLES / "shapes.png", "What is the purple shape?", timeout=0)
        assert (late.text, late.finish_reason) == ("", "deadline")
        assert vlm.ask(EXAMPLES / "shapes.png", "What is the purple shape?").text == "triangle"


def test_a_cache_of_float32_is_refused_with_the_option(runtime: FakeDriver) -> None:
    with pytest.raises(BackendError, match=r"stage \w+: .* fp16, the bundle has float32; .*--target ort-cuda"):
        load(device="cuda")


def test_an_onnxruntime_without_cuda_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"no CUDAExecutionProvider; run: pip uninstall -y onnxruntime && pip"):
        load(device="cuda")


def test_no_onnxruntime_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r'onnxruntime is not installed; run: pip install "glimpse-edge\[gpu\]"'):
        load(device="cuda")


def test_a_provider_that_does_not_start_is_no_slow_session(
    runtime: FakeDriver, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.modules["onnxruntime"].is_usable = False  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match=r'cannot use the GPU.*pip install "onnxruntime-gpu\[cuda,cudnn\]"'):
        load(half, device="cuda")
    assert capsys.readouterr().out == ""  # what onnxruntime printed while it looked for libraries


def test_an_input_copied_when_it_was_bound_is_bound_again_for_every_step(
    runtime: FakeDriver, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is bound once, as it is on the CPU, sees for ever what its inputs held then."""
    monkeypatch.setattr(ort_cuda.OrtCudaEngine, "prepare", ort_cuda.OrtEngine.prepare)
    with pytest.raises(BackendError, match="total_sequence_length must be positive, got 0"):
        load(half, device="cuda")
