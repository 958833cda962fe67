"""One TensorRT engine: inputs and outputs by address, the KV cache updated in place or by turns."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.cuda.memory import DeviceTensor, device
from glimpse_runtime.backends.trt.context import ALIGNMENT, Context
from glimpse_runtime.backends.trt.interface import Profiles, check_tensors
from glimpse_runtime.backends.trt.shared import Shared
from glimpse_runtime.backends.trt.source import Source
from glimpse_runtime.backends.trt.step import Step
from glimpse_runtime.bundle.manifest import StageSpec, TensorSpec
from glimpse_runtime.bundle.memory import ITEM_BYTES
from glimpse_runtime.errors import BackendError
from glimpse_runtime.interrupt import Interrupt


class TrtEngine:
    """An engine with its contexts, buffers and state.

    Every input that comes from the host, and every output, has a buffer of the largest size that the profile allows.
    A state tensor that the engine cannot update in place has two buffers, and every run goes from one to the other:
    a run must not write where it still reads.
    """

    def __init__(self, shared: Shared, source: Source, stage: StageSpec, state: Mapping[str, Tensor]) -> None:
        """Allocates buffers.

        Args:
            shared: what all engines have in common.
            source: the engine.
            stage: its inputs and outputs as the manifest lists them.
            state: see ``Backend.load``.

        Raises:
            BackendError: the engine is not one of this stage.
        """
        self.shared = shared
        self.source = source
        self._state = {name: device(tensor) for name, tensor in state.items()}
        self.inputs = [spec for spec in stage.inputs if not _names_state(spec, "past.", state)]
        self.outputs = [spec for spec in stage.outputs if not _names_state(spec, "present.", state)]
        check_tensors(source.engine, source.title, stage)
        self.profiles = Profiles(source.engine, source.title, self.inputs)
        self._back = {
            name: shared.memory.empty(tensor.shape, tensor.dtype)
            for name, tensor in self._state.items()
            if not self.updates_in_place(name)
        }
        self._turn = 0
        self._contexts: dict[int, Context] = {}
        self._steps: list[Step] = []
        self._staged: dict[str, DeviceTensor] = {}
        self._results: dict[str, DeviceTensor] = {}
        shared.workspace.need(source.engine.device_memory_size_v2)
        self._allocate_results()

    @property
    def turn(self) -> int:
        """Which of the two buffers of its state tensors comes first, 0 or 1; always 0 if all are updated in place."""
        return self._turn

    def run(
        self, inputs: Mapping[str, Tensor], interrupt: Interrupt, outputs: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Enqueues a run; see ``Engine.run``. The call does not wait for it, but for the run before the last one."""
        shared = self.shared
        shared.in_flight.wait(interrupt)
        placed = {spec.name: self._place(spec, inputs) for spec in self.inputs}
        shapes = {name: tensor.shape for name, tensor in placed.items()}
        context = self._context(self.profiles.choose(shapes))
        context.set_shapes(shapes)
        for name, tensor in placed.items():
            context.bind(name, tensor.address)
        self.bind_state(context)
        results: dict[str, Tensor] = {}
        copies = []
        for spec in self.outputs:
            given = (outputs or {}).get(spec.name)
            bound = self.bind_output(context, spec, None if given is None else device(given))
            results[spec.name] = bound if given is None else given
            if given is not None and bound is not given:
                copies.append((bound, given))
        context.enqueue(shared.memory.cuda.stream)
        for bound, given in copies:
            shared.memory.copy(bound, given)
        self.take_turns()
        shared.in_flight.record()
        return results

    def prepare(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Callable[[Interrupt], None]:
        """Binds once, and captures the run in a CUDA graph; see ``Engine.prepare``."""
        step = Step(self, inputs, outputs)
        self._steps.append(step)
        return step

    def close(self) -> None:
        """Waits for its runs and drops graphs, contexts, engine and buffers, in this order."""
        self.shared.memory.cuda.drain()
        for step in self._steps:
            step.close()
        for context in self._contexts.values():
            context.close()
        self.source.close()
        self._steps, self._contexts = [], {}
        for buffers in (self._state, self._back, self._staged, self._results):
            buffers.clear()

    def new_context(self, profile: int, for_step: bool) -> Context:
        """Returns a context on a profile."""
        shared, source = self.shared, self.source
        raw = source.make_context(for_step)
        return Context(raw, source.title, profile, shared.workspace, shared.messages, shared.memory.cuda.stream)

    def updates_in_place(self, name: str) -> bool:
        """Whether the engine writes a state tensor where it reads it; it then must."""
        return self.source.aliases.get(f"present.{name}") == f"past.{name}"

    def bind_state(self, context: Context) -> None:
        """Binds the state tensors."""
        for name, tensor in self._state.items():
            context.bind(f"past.{name}", tensor.address)
            context.bind(f"present.{name}", self._back.get(name, tensor).address)

    def bind_output(self, context: Context, spec: TensorSpec, target: DeviceTensor | None) -> DeviceTensor:
        """Binds an output to a target, or where that is none or not aligned to the engine's own buffer."""
        shape = context.shape(spec.name)
        if min(shape, default=1) < 0:
            if target is None:
                raise BackendError(f"{self.source.title}: the length of output {spec.name!r} depends on the input")
            bound = target
        else:
            if target is not None and target.nbytes != math.prod(shape) * ITEM_BYTES[spec.dtype]:
                raise BackendError(
                    f"{self.source.title}: output {spec.name!r} of shape {shape} does not fit one of {target.shape}"
                )
            aligned = target is not None and target.address % ALIGNMENT == 0
            bound = target if target is not None and aligned else self._result(spec, shape)
        context.bind(spec.name, bound.address)
        return bound

    def take_turns(self) -> None:
        """Makes what a run wrote the state that the next one reads."""
        for name, back in self._back.items():
            front = self._state[name]
            front.address, back.address = back.address, front.address
            front.owner, back.owner = back.owner, front.owner
        if self._back:
            self._turn = 1 - self._turn

    def _place(self, spec: TensorSpec, inputs: Mapping[str, Tensor]) -> DeviceTensor:
        """Returns an input on the device, at an aligned address."""
        if spec.name not in inputs:
            raise BackendError(f"{self.source.title}: input {spec.name!r} was not given")
        given = inputs[spec.name]
        if isinstance(given, DeviceTensor) and given.address % ALIGNMENT == 0:
            return given
        if isinstance(given, np.ndarray):
            given = np.ascontiguousarray(given, spec.dtype)
        if spec.name not in self._staged:
            self._staged[spec.name] = self.shared.memory.empty(self.profiles.largest(spec.name), spec.dtype)
        buffer = self._staged[spec.name]
        part = DeviceTensor(buffer.address, tuple(given.shape), spec.dtype, buffer.owner)
        if part.nbytes > buffer.nbytes:
            self.profiles.choose({spec.name: part.shape})
        self.shared.memory.copy(given, part)
        return part

    def _context(self, profile: int) -> Context:
        if profile not in self._contexts:
            self._contexts[profile] = self.new_context(profile, for_step=False)
        return self._contexts[profile]

    def _result(self, spec: TensorSpec, shape: tuple[int, ...]) -> DeviceTensor:
        count = math.prod(shape)
        buffer = self._results.get(spec.name)
        if buffer is None or math.prod(buffer.shape) < count:
            buffer = self._results[spec.name] = self.shared.memory.empty((count,), spec.dtype)
        return DeviceTensor(buffer.address, shape, spec.dtype, buffer.owner)

    def _allocate_results(self) -> None:
        """Allocates outputs at the size that the first profile, the widest, gives them at most."""
        context = self._context(0)
        context.set_shapes(self.profiles.widest())
        for spec in self.outputs:
            shape = context.shape(spec.name)
            if min(shape, default=1) >= 0:
                self._result(spec, shape)


def _names_state(spec: TensorSpec, prefix: str, state: Mapping[str, Tensor]) -> bool:
    return spec.name.startswith(prefix) and spec.name[len(prefix) :] in state
