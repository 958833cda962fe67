"""Mistakes that the TensorRT backend could make, each made on purpose: the stand-in notices them."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import conformance
import numpy as np
import pytest
from stand_ins.fake_cuda import FakeCudaError, FakeDriver
from stand_ins.gpu_stand_in import build, plug_in

from glimpse_runtime.backends import Tensor, open_backend
from glimpse_runtime.backends.cuda.device import Cuda
from glimpse_runtime.backends.cuda.memory import DeviceMemory, DeviceTensor
from glimpse_runtime.backends.cuda.resources import Event, Pinned
from glimpse_runtime.backends.trt import TrtBackend, engine
from glimpse_runtime.backends.trt.context import Context, Workspace
from glimpse_runtime.backends.trt.engine import TrtEngine
from glimpse_runtime.backends.trt.step import Step
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import StageSpec, TensorSpec
from glimpse_runtime.errors import BackendError
from glimpse_runtime.interrupt import Interrupt

CASE = "A01_square_224"
IN_PLACE, BY_TURNS = "10.15.1", "10.3.0"
Mistake = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(params=[IN_PLACE, BY_TURNS])
def device(
    request: pytest.FixtureRequest, fake_tensorrt: pytest.MonkeyPatch, traced_bundle: Path
) -> tuple[str, FakeDriver]:
    runtime = plug_in(fake_tensorrt, "tensorrt", request.param)
    build(fake_tensorrt, traced_bundle, "tensorrt")
    return request.param, runtime


def outcome(golden: Path, bundle: Path) -> str:
    """What a golden case says when it runs on the backend as it is now; empty if all is well."""
    try:
        return "; ".join(conformance.run_case(golden, CASE, Bundle.open(bundle), device="tensorrt").problems)
    except AssertionError as error:
        return str(error)


def no_shapes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Context, "set_shapes", lambda *_: None)
    patch.setattr(TrtEngine, "_allocate_results", lambda _: None)


def no_state(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TrtEngine, "bind_state", lambda *_: None)


def one_binding_less(patch: pytest.MonkeyPatch) -> None:
    bind = Context.bind
    patch.setattr(Context, "bind", lambda self, name, address: name == "cos" or bind(self, name, address))


def no_scratch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Workspace, "nbytes", property(lambda _: 0))


def results_too_small(patch: pytest.MonkeyPatch) -> None:
    def result(self: TrtEngine, spec: TensorSpec, shape: tuple[int, ...]) -> DeviceTensor:
        tensor = self.shared.memory.empty((1,), spec.dtype)
        return DeviceTensor(tensor.address, shape, spec.dtype, tensor.owner)

    patch.setattr(TrtEngine, "_result", result)


def no_waiting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cuda, "synchronize", lambda _: None)
    patch.setattr(Event, "synchronize", lambda _: None)


def freed_too_early(patch: pytest.MonkeyPatch) -> None:
    """What an engine is fed is given back before the engine is enqueued."""
    place = TrtEngine._place

    def place_and_free(self: TrtEngine, spec: TensorSpec, inputs: Mapping[str, Tensor]) -> DeviceTensor:
        tensor = place(self, spec, inputs)
        if spec.name == "cos":
            self.shared.memory._heap.free(tensor.address)
        return tensor

    patch.setattr(TrtEngine, "_place", place_and_free)


def freed_twice(patch: pytest.MonkeyPatch) -> None:
    def close(self: DeviceMemory) -> None:
        address = next(iter(self._heap._held))
        self._heap._held.clear()
        for _ in range(2):
            self.cuda.free(address)

    patch.setattr(DeviceMemory, "close", close)


def wrong_place_of_rows(patch: pytest.MonkeyPatch) -> None:
    rows = DeviceMemory.rows
    patch.setattr(DeviceMemory, "rows", lambda self, tensor, start, stop: rows(self, tensor, 0, stop - start))


def pageable(patch: pytest.MonkeyPatch) -> None:
    def pinned(self: Cuda, nbytes: int) -> Pinned:
        array = np.zeros(nbytes, np.uint8)
        resource = Pinned(self, array.ctypes.data, nbytes)
        resource.array, resource.handle = array, None
        return resource

    patch.setattr(Cuda, "pinned", pinned)


def device_not_chosen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cuda, "use_here", lambda _: None)


MISTAKES: dict[Mistake, str] = {
    no_shapes: "depends on the input",
    no_state: r"address of past\.\S+ was not set",
    one_binding_less: "address of cos was not set",
    no_scratch: "no device memory",
    results_too_small: r"reach beyond the|reaches beyond",
    no_waiting: "not finite|difference|differ",
    freed_too_early: "was freed",
    freed_twice: "freed twice",
    wrong_place_of_rows: "difference|differ",
    device_not_chosen: "in a thread that has not chosen the device",
    pageable: "lies in no memory of CUDA",
}


def test_without_a_mistake_all_is_well(device: tuple[str, FakeDriver], golden: Path, traced_bundle: Path) -> None:
    assert outcome(golden, traced_bundle) == ""
    assert device[1].device.leaks() == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_noticed(
    device: tuple[str, FakeDriver],
    golden: Path,
    traced_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Mistake,
) -> None:
    mistake(monkeypatch)
    found = outcome(golden, traced_bundle)
    assert re.search(MISTAKES[mistake], found), found or "nobody noticed"


def test_state_that_is_not_where_the_engine_needs_it_is_noticed(
    device: tuple[str, FakeDriver], golden: Path, traced_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, _ = device
    monkeypatch.setattr(TrtEngine, "updates_in_place", lambda *_: version == BY_TURNS)
    expected = "overlaps past" if version == BY_TURNS else r"present\S+ must lie where past\S+ lies"
    assert re.search(expected, outcome(golden, traced_bundle))


def test_state_that_does_not_take_turns_is_noticed(
    device: tuple[str, FakeDriver], golden: Path, traced_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrtEngine, "take_turns", lambda _: None)
    found = outcome(golden, traced_bundle)
    assert bool(found) == (device[0] == BY_TURNS)


def test_memory_that_is_never_given_back_is_noticed(
    device: tuple[str, FakeDriver], golden: Path, traced_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeviceMemory, "close", lambda self: (self._heap._held.clear(), self.cuda.close()))
    assert outcome(golden, traced_bundle) == ""
    assert [leak for leak in device[1].device.leaks() if leak.startswith("device memory")]


class TestOneEngine:
    """The lower layers alone."""

    @pytest.fixture
    def backend(self, device: tuple[str, FakeDriver]) -> Iterator[TrtBackend]:
        opened = open_backend("tensorrt")
        assert isinstance(opened, TrtBackend)
        yield opened
        opened.close()
        assert device[1].device.leaks() == []

    @staticmethod
    def lower(backend: TrtBackend, folder: Path) -> tuple[StageSpec, TrtEngine]:
        from glimpse_runtime.steps.cache import KVCache

        bundle = Bundle.open(folder)
        stage = bundle.manifest.stages_of(bundle.manifest.choose_dialect(backend.dialects))["lower"]
        cache = KVCache(backend, stage.inputs, bundle.manifest.profiles["context"].max)
        return stage, backend.load(bundle, "lower", stage, cache.state)

    @staticmethod
    def step_inputs(stage: StageSpec, rows: int, seed: int) -> dict[str, np.ndarray]:
        """Host arrays for every input, state excepted."""
        rng = np.random.default_rng(seed)
        shapes = {
            spec.name: (tuple(rows if isinstance(dim, str) else dim for dim in spec.shape), spec.dtype)
            for spec in stage.inputs
            if not spec.name.startswith("past.")
        }
        made = {name: rng.standard_normal(shape).astype(dtype) for name, (shape, dtype) in shapes.items()}
        made["slots"] = np.arange(rows)
        made["glimpse_gate"][:] = 0
        return made

    def prepare(
        self, backend: TrtBackend, stage: StageSpec, lower: TrtEngine
    ) -> tuple[dict[str, np.ndarray], Tensor, Callable[[Interrupt], None]]:
        """A step of one row: the arrays that it is fed from, the tensor that it writes, and the step itself."""
        fed = self.step_inputs(stage, 1, 0)
        target = backend.allocate(fed["hidden_in"].shape, "float32")
        return fed, target, lower.prepare(fed, {"hidden_out": target})

    def feed(self, stage: StageSpec, fed: dict[str, np.ndarray], seed: int) -> None:
        for name, array in self.step_inputs(stage, 1, seed).items():
            fed[name][...] = array

    def test_a_step_gives_what_a_run_gives_however_fast_it_is_called(
        self, backend: TrtBackend, traced_bundle: Path
    ) -> None:
        stage, lower = self.lower(backend, traced_bundle)
        fed, target, step = self.prepare(backend, stage, lower)
        for seed in range(6):
            self.feed(stage, fed, seed)
            step(Interrupt())
        found = backend.download(target)
        expected = lower.run(self.step_inputs(stage, 1, 5), Interrupt())["hidden_out"]
        np.testing.assert_array_equal(found, backend.download(expected))

    def test_a_step_fed_while_the_last_one_still_reads_is_noticed(
        self, backend: TrtBackend, traced_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Event, "synchronize", lambda _: None)
        stage, lower = self.lower(backend, traced_bundle)
        fed, target, step = self.prepare(backend, stage, lower)
        targets = []
        for seed in (0, 1, 2, 3):  # the first ones are captured, which waits
            self.feed(stage, fed, seed)
            step(Interrupt())
            targets.append(backend.empty(target.shape, "float32"))
            backend.copy(target, targets[-1])
        expected = lower.run(self.step_inputs(stage, 1, 2), Interrupt())["hidden_out"]
        assert not np.array_equal(backend.download(targets[2]), backend.download(expected))

    def test_a_graph_is_captured_anew_when_the_scratch_memory_has_moved(
        self, backend: TrtBackend, traced_bundle: Path
    ) -> None:
        stage, lower = self.lower(backend, traced_bundle)
        fed, target, step = self.prepare(backend, stage, lower)
        for _ in range(3):
            step(Interrupt())
        backend._workspace.need(1 << 20)
        step(Interrupt())
        found = backend.download(target)
        expected = lower.run(fed, Interrupt())["hidden_out"]
        np.testing.assert_array_equal(found, backend.download(expected))

    def test_a_graph_that_is_kept_when_memory_has_moved_is_noticed(
        self, backend: TrtBackend, traced_bundle: Path
    ) -> None:
        class Stale(dict):  # type: ignore[type-arg]
            def __contains__(self, key: object) -> bool:
                return True

            def __getitem__(self, key: object) -> object:
                return next(iter(self.values()))

        stage, lower = self.lower(backend, traced_bundle)
        *_, step = self.prepare(backend, stage, lower)
        step(Interrupt())
        assert isinstance(step, Step)
        step._graphs = Stale(step._graphs)
        backend._workspace.need(1 << 20)
        with pytest.raises(FakeCudaError, match=r"launched in a graph with memory at .* that was freed"):
            step(Interrupt())

    @pytest.mark.parametrize("alignment", [256, 1])
    def test_what_is_not_aligned_goes_by_way_of_the_engines_own_buffers(
        self, backend: TrtBackend, traced_bundle: Path, monkeypatch: pytest.MonkeyPatch, alignment: int
    ) -> None:
        monkeypatch.setattr(engine, "ALIGNMENT", alignment)
        stage, lower = self.lower(backend, traced_bundle)
        fed: dict[str, Tensor] = dict(self.step_inputs(stage, 3, 0))
        expected = backend.download(lower.run(fed, Interrupt())["hidden_out"])
        whole = backend.allocate((2, expected.size + 1), "float32")
        odd = [
            DeviceTensor(whole.address + start, expected.shape, "float32", whole.owner)
            for start in (4, 4 * expected.size + 4)
        ]
        backend.copy(fed["hidden_in"], odd[0])
        fed["hidden_in"] = odd[0]
        if alignment == 1:
            with pytest.raises(AssertionError, match="is not a multiple of 256"):
                lower.run(fed, Interrupt(), {"hidden_out": odd[1]})
            return
        lower.run(fed, Interrupt(), {"hidden_out": odd[1]})
        np.testing.assert_array_equal(backend.download(odd[1]), expected)
        with pytest.raises(BackendError, match="must be a contiguous, aligned float32 array"):
            lower.prepare(self.step_inputs(stage, 1, 0) | {"hidden_in": backend.rows(odd[0], 0, 1)}, {})

    def test_a_shape_outside_of_the_profiles_is_refused(self, backend: TrtBackend, traced_bundle: Path) -> None:
        stage, lower = self.lower(backend, traced_bundle)
        with pytest.raises(BackendError, match=r"stage lower: input .* of shape \(1, 4000, \d+\) is outside of"):
            lower.run(self.step_inputs(stage, 4000, 0), Interrupt())

    def test_an_input_that_was_not_given_is_refused(self, backend: TrtBackend, traced_bundle: Path) -> None:
        stage, lower = self.lower(backend, traced_bundle)
        fed = self.step_inputs(stage, 1, 0)
        del fed["sin"]
        for call in (lambda: lower.run(fed, Interrupt()), lambda: lower.prepare(fed, {})):
            with pytest.raises(BackendError, match="stage lower: input 'sin' was not given"):
                call()

    def test_an_engine_of_another_stage_is_refused(
        self, backend: TrtBackend, traced_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = Bundle.open(traced_bundle)
        stages = bundle.manifest.stages_of(bundle.manifest.choose_dialect(backend.dialects))
        with pytest.raises(
            BackendError, match=r"stage lower: tensor '\S+' is \S+ in the engine and missing in the manif"
        ):
            backend.load(bundle, "lower", _without_last_input(stages["lower"]), {})


def _without_last_input(stage: StageSpec) -> StageSpec:
    return StageSpec(stage.file, stage.inputs[:-1], stage.outputs)
