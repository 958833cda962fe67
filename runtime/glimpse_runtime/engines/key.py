"""What an engine depends on, and its name in the cache that follows from it."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from glimpse_runtime._version import __version__
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import Profile, StageSpec
from glimpse_runtime.engines.flavours import Flavour, Installed
from glimpse_runtime.engines.gpu import Gpu
from glimpse_runtime.engines.profiles import engine_profiles
from glimpse_runtime.errors import BackendError

COMPACTION = "CompactMany"
"""The operator that is a function in the graph and a plugin where TensorRT has it."""

# To be raised when engines are built in another way from the same graph.
_RECIPE = 1

# TensorRT-RTX compiles for the GPU when an engine is loaded. Without being told otherwise it builds for these.
_PORTABLE_FROM = (8, 0)
_TURING = (7, 5)
_NOT_RTX = ((8, 7), (9, 0), (10, 0), (10, 1), (10, 3), (11, 0))


@dataclass(frozen=True)
class Setting:
    """Where and how engines are built.

    Attributes:
        flavour: which TensorRT, as far as it matters.
        version: its version.
        gpu: the GPU, or the range of them, in words.
        plugin: hash of the compaction plugin's sources; None uses the function in the graph.
    """

    flavour: Flavour
    version: str
    gpu: str
    plugin: str | None = None

    @classmethod
    def here(cls, found: Installed, gpu: Gpu | None, plugin: str | None = None) -> "Setting":
        """Returns the setting of this machine.

        Raises:
            BackendError: there is no GPU, or not one that engines can be built for.
        """
        return cls(found.flavour, found.version, gpu_identity(found, gpu), plugin)


@dataclass(frozen=True)
class EngineKey:
    """Everything an engine depends on; two engines with the same key do the same.

    Attributes:
        stage: the stage.
        graph: SHA-256 of the graph file.
        weights: SHA-256 of the files of weights it reads, by name.
        tensorrt: flavour and version.
        gpu: the GPU or the range of them.
        platform: operating system and processor.
        profiles: the range of every named dimension, by profile.
        compaction: ``plugin`` with the hash of its sources, ``function``, or empty for a graph without it.
        builder: version of glimpse-edge, and of its way to build.
    """

    stage: str
    graph: str
    weights: Mapping[str, str]
    tensorrt: str
    gpu: str
    platform: str
    profiles: Mapping[str, Mapping[str, Profile]]
    compaction: str
    builder: str

    @property
    def name(self) -> str:
        """Name of its folder in the cache."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def engine_key(bundle: Bundle, stage: str, spec: StageSpec, setting: Setting) -> EngineKey:
    """Returns the key of a stage's engine.

    Args:
        bundle: the checked bundle.
        stage: the stage's name.
        spec: its graph in the dialect that is built.
        setting: where and how.

    Raises:
        BundleFormatError: a dimension of the graph has no profile.
    """
    files = bundle.manifest.files
    graph = bundle.path(spec.file).read_bytes()
    # A graph names the files its weights lie in, and the operators it uses, as plain text.
    weights = {name: files[name].sha256 for name in sorted(files) if name != spec.file and name.encode() in graph}
    profiles = engine_profiles(bundle.manifest, stage, spec, setting.flavour)
    compaction = ("function" if setting.plugin is None else f"plugin {setting.plugin}") if has_compaction(graph) else ""
    return EngineKey(
        stage=stage,
        graph=files[spec.file].sha256,
        weights=weights,
        tensorrt=f"{setting.flavour.name} {setting.version}",
        gpu=setting.gpu,
        platform=f"{platform.system()} {platform.machine()}",
        profiles={profile.name: profile.dims for profile in profiles},
        compaction=compaction,
        builder=f"glimpse-edge {__version__}, {_RECIPE}",
    )


def has_compaction(graph: bytes) -> bool:
    """Whether a graph file uses the compaction operator."""
    return COMPACTION.encode() in graph


def gpu_identity(found: Installed, gpu: Gpu | None) -> str:
    """Returns what engines are built for, in words that are the same where an engine is the same.

    Raises:
        BackendError: there is no GPU, or not one that engines can be built for.
    """
    if not found.flavour.portable:
        if gpu is None:
            raise BackendError(
                f"{found.title} builds an engine on the GPU it is for, and no CUDA device was found; run the same "
                "command on the device, or check its driver"
            )
        return str(gpu)
    if gpu is not None and (gpu.capability in _NOT_RTX or gpu.capability < _TURING):
        raise BackendError(
            f"TensorRT-RTX has no engines for {gpu}: it is for desktop GPUs, compute capability 7.5, 8.0, 8.6, 8.9 and "
            "12.x; use --target tensorrt"
        )
    return "compute capability 7.5" if is_turing(gpu) else "compute capability 8.0 and later"


def is_turing(gpu: Gpu | None) -> bool:
    """Whether TensorRT-RTX has to be told to build for a GPU, since it is older than what it builds for by itself."""
    return gpu is not None and _TURING <= gpu.capability < _PORTABLE_FROM
