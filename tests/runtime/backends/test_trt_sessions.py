"""Whole sessions on TensorRT's stand-in: the answers are those of the CPU, and nothing is left on the device."""

import itertools
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from stand_ins.fake_cuda import CudaError, FakeDriver
from stand_ins.gpu_stand_in import build, plug_in, put_in_kernels
from support.places import ROOT
from support.slow import few, slow

from glimpse_runtime import Answer, BackendError, InputError, Pruning, Sampling, Session, load
from glimpse_runtime.backends.cuda.compaction import Compaction, HostCompaction, KernelCompaction
from glimpse_runtime.backends.ort import OrtBackend
from glimpse_runtime.backends.trt.compaction import EngineCompaction
from glimpse_runtime.bundle import memory
from glimpse_runtime.engines.flavours import installed
from glimpse_runtime.pruners import names

EXAMPLES = ROOT / "examples"
MACHINES = {
    "tensorrt 10.3": ("tensorrt", "10.3.0"),
    "tensorrt": ("tensorrt", "10.15.1"),
    "rtx": ("tensorrt-rtx", "1.7.1"),
}
DIALECT = {"tensorrt 10.3": "plain"}


@dataclass
class Machine:
    """What the tests below run on.

    Attributes:
        name: of ``MACHINES``.
        target: the device to load with.
        bundle: has engines for it.
        runtime: the fake device.
        cache: where the engines are.
        patch: undone after the test.
    """

    name: str
    target: str
    bundle: Path
    runtime: FakeDriver
    cache: Path
    patch: pytest.MonkeyPatch

    def load(self, **options: object) -> Session:
        return load(self.bundle, device=self.target, **options)  # type: ignore[arg-type]

    def cpu(self, **options: object) -> Session:
        """The same graphs on the CPU."""
        self.patch.setattr(OrtBackend, "dialects", (DIALECT.get(self.name, "opset24"),))
        return load(self.bundle, **options)  # type: ignore[arg-type]


@pytest.fixture(params=few(MACHINES, ["tensorrt"]))
def machine(
    request: pytest.FixtureRequest, fake_tensorrt: pytest.MonkeyPatch, engine_bundle: Path
) -> Iterator[Machine]:
    target, version = MACHINES[request.param]
    runtime = plug_in(fake_tensorrt, target, version)
    cache = build(fake_tensorrt, engine_bundle, target)
    yield Machine(request.param, target, engine_bundle, runtime, cache, fake_tensorrt)
    assert runtime.device.leaks() == []


def examples() -> list[tuple[Path, str]]:
    return [
        (EXAMPLES / case["image"], case["question"]) for case in json.loads((EXAMPLES / "questions.json").read_text())
    ]


def same(found: Answer, expected: Answer) -> None:
    assert found.text == expected.text
    assert found.token_ids == expected.token_ids
    for mask, other in zip(found.pruning.keep_masks, expected.pruning.keep_masks, strict=True):
        np.testing.assert_array_equal(mask, other)


def never_end(tokens: object, logits: np.ndarray) -> np.ndarray:
    """Nothing but plain words, so that an answer is as long as it may be."""
    return np.concatenate([logits[:200], np.full(len(logits) - 200, -1e9, np.float32)])


LONG = Sampling(temperature=1.0, seed=3, processors=(never_end,))
REQUESTS = {
    "pruned": {},
    "unpruned": {"pruning": Pruning(enabled=False)},
    "all but nothing kept": {"pruning": Pruning(threshold=1.0, min_keep=1, max_keep_ratio=None)},
    "sampled": {"sampling": LONG, "max_new_tokens": 20},
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_answers_are_those_of_the_cpu(machine: Machine, request_name: str) -> None:
    options = REQUESTS[request_name]
    with machine.load() as vlm, machine.cpu() as reference:
        for image, question in examples()[:2]:
            same(vlm.ask(image, question, **options), reference.ask(image, question, **options))
        same(vlm.ask([], "Hello", **options), reference.ask([], "Hello", **options))


def asked(vlm: Session, image: Path, question: str, way: dict[str, object]) -> Answer | str:
    """An answer, or why there is none."""
    try:
        return vlm.ask(image, question, pruning=Pruning(**way), max_new_tokens=2)  # type: ignore[arg-type]
    except InputError as error:
        return str(error)


def test_every_way_of_pruning_finds_on_the_device_what_it_finds_on_the_host(machine: Machine) -> None:
    image, question = examples()[0]
    ways = [{"method": name, "max_keep_ratio": 0.2} for name in names()]
    ways += [{"pre": name, "pre_keep": 0.5, "max_keep_ratio": 0.2} for name in names()]
    answered = 0
    small = {"scene_cache_bytes": 0, "max_pixels": 140 * 140}
    with machine.load(**small) as vlm, machine.cpu(**small) as reference:
        for way in ways:
            found, expected = asked(vlm, image, question, way), asked(reference, image, question, way)
            if isinstance(found, str) or isinstance(expected, str):
                assert found == expected
            else:
                same(found, expected)
                answered += 1
    assert answered > 5


@pytest.mark.parametrize("way", [KernelCompaction, EngineCompaction, HostCompaction])
def test_every_way_of_compaction_gives_the_same_answers(machine: Machine, way: type[Compaction]) -> None:
    if way is KernelCompaction:
        library = put_in_kernels(machine.patch, machine.runtime)
    elif way is HostCompaction:
        machine.patch.setattr("glimpse_runtime.backends.trt.backend.find_engine", lambda key: None)
    with machine.load() as vlm, machine.cpu() as reference:
        assert type(vlm._pipeline._backend.compaction) is way  # type: ignore[union-attr, attr-defined]
        for image, question in examples()[:2]:
            same(vlm.ask(image, question), reference.ask(image, question))
    if way is KernelCompaction:
        assert library.launches == 2 + 1  # one launch per question, and one while warming up


def test_scenes_are_asked_again_and_images_go_together(machine: Machine) -> None:
    images = [EXAMPLES / "shapes.png", EXAMPLES / "plate.jpg"]
    questions = ["Tell me the colour of the cross.", "What number is on the white plate?"]
    with machine.load() as vlm, machine.cpu(scene_cache_bytes=0) as reference:
        for chosen in (images, images[:1]):
            scene = vlm.encode(chosen)
            for question in questions:
                answer = scene.ask(question)
                assert answer.stats.stage_ms["vision"] == 0
                same(answer, reference.ask(chosen, question))
        for question in questions:  # the cache of scenes, too
            same(vlm.ask(images, question), reference.ask(images, question))


def test_a_long_prompt_is_run_in_parts(
    fake_tensorrt: pytest.MonkeyPatch, engine_bundle: Path, request: pytest.FixtureRequest
) -> None:
    fake_tensorrt.setattr(memory, "ROWS_AT_ONCE", 16)
    runtime = plug_in(fake_tensorrt, "tensorrt", "10.15.1")
    cache = build(fake_tensorrt, engine_bundle, "tensorrt")
    machine = Machine("tensorrt", "tensorrt", engine_bundle, runtime, cache, fake_tensorrt)
    with machine.load() as vlm, machine.cpu() as reference:
        for image, question in examples()[:2]:
            same(vlm.ask(image, question), reference.ask(image, question))
            pruning = Pruning(enabled=False)
            same(vlm.ask(image, question, pruning=pruning), reference.ask(image, question, pruning=pruning))


def test_a_decode_step_is_a_graph_per_engine_and_waits_once(machine: Machine) -> None:
    with machine.load() as vlm:
        answer = vlm.ask([], "Hello", sampling=LONG, max_new_tokens=12)
        pieces = iter(answer)
        for _ in range(3):
            next(pieces)
        machine.runtime.device.calls.clear()
        before = answer.stats.new_tokens
        next(pieces)
        steps = answer.stats.new_tokens - before
        calls = Counter(machine.runtime.device.calls)
    if machine.name == "rtx":  # it captures by itself
        assert "cuStreamBeginCapture_v2" not in calls
        assert copies(calls) == 3 * steps
    else:
        assert calls["cuGraphLaunch"] == 2 * steps
        assert copies(calls) == 0
    assert not {name for name in calls if "Alloc" in name or "Free" in name}


def copies(calls: Counter[str]) -> int:
    return sum(count for name, count in calls.items() if "Memcpy" in name)


def test_a_step_that_cannot_be_captured_runs_without(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.runtime.fails["cuStreamEndCapture"] = CudaError.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    with caplog.at_level(logging.WARNING), machine.load() as vlm, machine.cpu() as reference:
        answers = [session.ask([], "Hello", sampling=LONG, max_new_tokens=12) for session in (vlm, reference)]
        same(*answers)
    warnings = [record.message for record in caplog.records if "without a CUDA graph" in record.message]
    assert len(warnings) == (0 if machine.name == "rtx" else 2)


@slow
def test_a_hundred_questions_take_no_more_memory_than_ten(machine: Machine) -> None:
    with machine.load(scene_cache_bytes=0, max_pixels=112 * 112) as vlm:
        held = []
        cases = itertools.cycle(examples())
        for count in range(100):
            image, question = next(cases)
            assert vlm.ask(image, question, max_new_tokens=3).text is not None
            if count in (9, 99):
                held.append([machine.runtime.device.held_bytes(kind) for kind in ("device", "pinned")])
        assert held[0] == held[1]
        assert vlm.memory_plan()["device_bytes"] == held[0][0]


def test_cached_scenes_are_given_back(machine: Machine) -> None:
    with machine.load() as vlm:
        start = machine.runtime.device.held_bytes()
        vlm.ask(EXAMPLES / "shapes.png", "What is the purple shape?", max_new_tokens=1)
        kept = vlm.memory_plan()["scene_bytes"]
        assert 0 < kept <= machine.runtime.device.held_bytes() - start + 16 * 1024
        scene = vlm.encode(EXAMPLES / "plate.jpg")
        grown = machine.runtime.device.held_bytes()
        del scene
        assert machine.runtime.device.held_bytes() < grown


def test_a_request_ends_when_it_is_cancelled_or_late(machine: Machine) -> None:
    image, question = examples()[0]
    with machine.load(scene_cache_bytes=0) as vlm, machine.cpu() as reference:
        late = vlm.ask(image, question, timeout=0)
        assert (late.text, late.finish_reason) == ("", "deadline")
        answer = vlm.ask([], "Hello", sampling=LONG, max_new_tokens=1000)
        next(iter(answer))
        canceller = threading.Thread(target=vlm.cancel)
        canceller.start()
        canceller.join()
        assert answer.text is not None
        assert answer.finish_reason == "cancelled"
        same(vlm.ask(image, question), reference.ask(image, question))


def test_memory_of_a_session_is_gone_when_it_is_closed_in_the_middle(machine: Machine) -> None:
    vlm = machine.load()
    answer = vlm.ask([], "Hello", sampling=LONG, max_new_tokens=1000)
    next(iter(answer))
    scene = vlm.encode(EXAMPLES / "shapes.png")
    vlm.close()
    vlm.close()
    assert machine.runtime.device.leaks() == []
    del scene, answer


def test_too_little_memory_is_an_error_that_leaves_nothing_behind(machine: Machine) -> None:
    machine.runtime.device.memory_bytes = 3 << 20
    with pytest.raises(BackendError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        machine.load()


@slow
def test_the_largest_warm_up_takes_all_memory_that_a_request_needs(machine: Machine) -> None:
    with machine.load(warmup="largest", scene_cache_bytes=0) as vlm:
        machine.runtime.device.memory_bytes = machine.runtime.device.peak_bytes
        for image, question in examples()[:2]:
            vlm.ask(image, question, max_new_tokens=2)


def test_threads_are_not_for_tensorrt(machine: Machine) -> None:
    with pytest.raises(InputError, match="threads are for the devices cpu and cuda"):
        machine.load(threads=1)


class TestEngines:
    """What is in the cache is what was built, or it is not used."""

    def test_none_is_an_error_with_the_command(self, machine: Machine, tmp_path: Path) -> None:
        machine.patch.setenv("GLIMPSE_CACHE", str(tmp_path))
        with pytest.raises(BackendError) as caught:
            machine.load()
        assert f"glimpse-export --bundle {machine.bundle} --target {machine.target}" in str(caught.value)

    def test_one_of_another_key_is_not_used(self, machine: Machine, tmp_path: Path) -> None:
        """Two engines in each other's places."""
        engines = {path: path.read_bytes() for path in machine.cache.glob("engines/*/*.engine")}
        upper = next(data for path, data in engines.items() if path.name == "upper.engine")
        try:
            for path in engines:
                if path.name == "lower.engine":
                    path.write_bytes(upper)
            with pytest.raises(BackendError, match="there is no engine of stage 'lower'"):
                machine.load()
        finally:
            for path, data in engines.items():
                path.write_bytes(data)

    def test_one_of_another_version_is_not_used(self, machine: Machine) -> None:
        found = installed(machine.target)
        machine.patch.setattr(found.module, "__version__", f"{found.version}.1")
        with pytest.raises(BackendError, match=rf"no engine of stage .* for {machine.target} {found.version}\.1"):
            machine.load()


def test_compiled_kernels_of_rtx_are_kept_beside_the_engine(
    fake_tensorrt: pytest.MonkeyPatch, engine_bundle: Path
) -> None:
    plug_in(fake_tensorrt, "tensorrt-rtx", "1.7.1")
    cache = build(fake_tensorrt, engine_bundle, "tensorrt-rtx")
    load(engine_bundle, device="tensorrt-rtx").close()
    kept = sorted(cache.glob("engines/*/*.kernels"))
    assert {path.name for path in kept} >= {"lower.kernels", "upper.kernels", "vision.kernels", "score.kernels"}
    kept[0].write_bytes(b"damaged")
    load(engine_bundle, device="tensorrt-rtx").close()
    assert kept[0].read_bytes() == b"kernels"


WAYS = [
    Pruning(pre="dart", pre_keep=0.5),
    Pruning(pre="divprune", pre_keep=0.3, max_keep_ratio=0.1),
    Pruning(method="cdpruner", max_keep_ratio=0.25),
    Pruning(method="fastv", max_keep_ratio=0.2),
    Pruning(method="fastv", max_keep_ratio=0.2, neighbour_suppression=True, pre="uniform", pre_keep=0.6),
    Pruning(method="glimpse-attention", max_keep_ratio=0.2),
]


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_pruning_methods_on_a_device(machine: Machine, way: int) -> None:
    image, question = examples()[0]
    with machine.load() as vlm, machine.cpu() as cpu:
        for _ in range(2):
            found, expected = (each.ask([image, image], question, pruning=WAYS[way]) for each in (vlm, cpu))
            same(found, expected)
        with vlm.encode(image, pruning=WAYS[way]) as scene, cpu.encode(image, pruning=WAYS[way]) as other:
            same(scene.ask(question), other.ask(question))
