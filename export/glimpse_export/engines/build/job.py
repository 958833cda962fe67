"""One engine to build, in a form that can be handed to another process."""

import dataclasses
import json
from dataclasses import dataclass

from glimpse_runtime.bundle.records import read_record
from glimpse_runtime.engines.key import EngineKey
from glimpse_runtime.engines.profiles import EngineProfile


@dataclass(frozen=True)
class Job:
    """One engine to build.

    Attributes:
        bundle: the bundle's folder.
        dialect: the dialect of the graph.
        target: ``tensorrt`` or ``tensorrt-rtx``.
        key: all the engine depends on; it says the stage, and the profiles.
        plugin: the compaction plugin's library, None to leave the operator to its function.
        turing: TensorRT-RTX is to build for compute capability 7.5, which it does not by itself.
    """

    bundle: str
    dialect: str
    target: str
    key: EngineKey
    plugin: str | None
    turing: bool

    @property
    def profiles(self) -> tuple[EngineProfile, ...]:
        """The profiles in the engine's order."""
        return tuple(EngineProfile(name, dims) for name, dims in self.key.profiles.items())

    def to_json(self) -> str:
        """Returns the job as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Reads a job."""
        return read_record(cls, json.loads(text), "job")
