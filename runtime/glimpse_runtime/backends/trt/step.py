"""One decode step of an engine, bound once and captured as a CUDA graph."""

import logging
import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from glimpse_runtime.arrays import Array
from glimpse_runtime.backends.base import Tensor
from glimpse_runtime.backends.cuda.memory import DeviceTensor, device
from glimpse_runtime.backends.cuda.resources import Graph, Pinned
from glimpse_runtime.backends.trt.context import ALIGNMENT, Context
from glimpse_runtime.backends.trt.interface import Profiles
from glimpse_runtime.backends.trt.shared import Shared
from glimpse_runtime.backends.trt.source import Source
from glimpse_runtime.bundle.manifest import TensorSpec
from glimpse_runtime.errors import BackendError
from glimpse_runtime.interrupt import Interrupt

log = logging.getLogger("glimpse")


class StepEngine(Protocol):
    """What a step needs of its engine."""

    shared: Shared
    source: Source
    profiles: Profiles
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]

    @property
    def turn(self) -> int:
        """Which of the two buffers of its state tensors comes first."""
        ...

    def new_context(self, profile: int, for_step: bool) -> Context:
        """Returns a context on a profile."""
        ...

    def bind_state(self, context: Context) -> None:
        """Binds the state tensors."""
        ...

    def bind_output(self, context: Context, spec: TensorSpec, target: DeviceTensor | None) -> DeviceTensor:
        """Binds an output."""
        ...

    def take_turns(self) -> None:
        """Makes what a run wrote the state that the next one reads."""
        ...


class Step:
    """Runs an engine on fixed arrays.

    A graph holds three kinds of work: one copy of all host inputs, which lie together in page-locked memory, the
    engine's own, and a copy of every host output. Where the state tensors have two buffers there are two graphs.
    The context is the step's own: another shape in the same context would make a captured graph invalid.
    """

    def __init__(self, engine: StepEngine, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Allocates and binds; see ``Engine.prepare``.

        Raises:
            BackendError: an input is missing, or of a form that cannot be bound once.
        """
        self._engine = engine
        self._cuda = engine.shared.memory.cuda
        self._captures = engine.source.captures
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._done = self._cuda.event()
        given = {spec.name: _fixed(spec.name, spec.dtype, inputs, engine.source.title) for spec in engine.inputs}
        self._fed = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
        self._offsets, nbytes = _layout(self._fed)
        self._pinned_in = self._cuda.pinned(nbytes)
        self._block = engine.shared.memory.empty((nbytes,), "uint8")
        self._context = engine.new_context(
            engine.profiles.choose({name: value.shape for name, value in given.items()}), for_step=True
        )
        self._context.set_shapes({name: value.shape for name, value in given.items()})
        for name, value in given.items():
            fed = name in self._fed
            self._context.bind(name, self._block.address + self._offsets[name] if fed else device(value).address)
        # Held, so that what the graph reads and writes stays where it is.
        self._tensors = [value for value in given.values() if isinstance(value, DeviceTensor)]
        self._read: list[tuple[DeviceTensor, Pinned, Array, Array]] = []
        for spec in engine.outputs:
            target = outputs.get(spec.name)
            on_device = device(target) if isinstance(target, DeviceTensor) else None
            bound = engine.bind_output(self._context, spec, on_device)
            self._tensors.append(bound)
            if on_device is not None and bound is not on_device:
                raise BackendError(f"output {spec.name!r} is not aligned to {ALIGNMENT} bytes and cannot be bound once")
            if isinstance(target, np.ndarray):
                pinned = self._cuda.pinned(bound.nbytes)
                self._read.append((bound, pinned, pinned.array.view(spec.dtype).reshape(target.shape), target))

    def __call__(self, interrupt: Interrupt) -> None:
        """Runs the step; waits for it if it has outputs on the host."""
        interrupt.check()
        self._done.synchronize()  # the page-locked memory may be written to again
        for name, array in self._fed.items():
            start = self._offsets[name]
            self._pinned_in.array[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        key = self._engine.turn, self._engine.shared.workspace.address()
        if key in self._graphs:
            self._graphs[key].launch()
        else:
            self._engine.bind_state(self._context)
            self._enqueue()
            if self._captures:
                self._capture(key)
        self._engine.take_turns()
        self._done.record()
        if self._read:
            self._done.synchronize()
            for _, _, source, target in self._read:
                target[...] = source

    def close(self) -> None:
        """Drops graphs, context and buffers."""
        for resource in (*self._graphs.values(), self._done, self._pinned_in, *(read[1] for read in self._read)):
            resource.close()
        self._context.close()
        self._graphs, self._read, self._fed, self._tensors = {}, [], {}, []

    def _enqueue(self) -> None:
        self._cuda.upload(self._pinned_in.address, self._block.address, self._block.nbytes)
        self._context.enqueue(self._cuda.stream)
        for bound, pinned, _, _ in self._read:
            self._cuda.download(bound.address, pinned.address, bound.nbytes)

    def _capture(self, key: tuple[int, int]) -> None:
        """Captures what was just enqueued: TensorRT asks for an ordinary run on the same shapes and addresses first."""
        try:
            self._graphs[key] = self._cuda.capture(self._enqueue)
        except BackendError as error:
            self._captures = False
            log.warning(
                "%s: decode steps run without a CUDA graph, so they are slower: %s", self._engine.source.title, error
            )


def _fixed(name: str, dtype: str, inputs: Mapping[str, Tensor], title: str) -> Tensor:
    """Returns an input that can be bound once."""
    if name not in inputs:
        raise BackendError(f"{title}: input {name!r} was not given")
    value = inputs[name]
    if isinstance(value, np.ndarray):
        fits = value.dtype == dtype and value.flags.c_contiguous
    else:
        fits = device(value).dtype == dtype and device(value).address % ALIGNMENT == 0
    if not fits:
        raise BackendError(f"{title}: input {name!r} must be a contiguous, aligned {dtype} array to be bound once")
    return value


def _layout(arrays: Mapping[str, Array]) -> tuple[dict[str, int], int]:
    """Offsets of arrays that lie together, each aligned, and the bytes of all."""
    offsets, end = {}, 0
    for name, array in arrays.items():
        offsets[name] = end
        end += math.ceil(array.nbytes / ALIGNMENT) * ALIGNMENT
    return offsets, end
