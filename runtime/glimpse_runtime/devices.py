"""Where a bundle can run, in one table. Nothing is imported to tell."""

from dataclasses import dataclass
from importlib import metadata, util


@dataclass(frozen=True)
class Device:
    """One place to run.

    Attributes:
        name: what ``load(device=)`` and ``glimpse-run --device`` call it.
        target: what ``glimpse-export --target`` calls it.
        modules: what has to be installed.
        distribution: the package that has to be, where a module's name does not tell two apart.
        backend: module and class that run a bundle there.
        takes_threads: whether a number of CPU threads can be chosen.
        builds_engines: whether bundles are built into engines on the machine that runs them.
        widens_weights: whether what runs there holds weights of fp16 and bf16 as float32.
        kv_cache: what the KV cache has to be stored in there, None where the model's precision decides.
        recommendation: whose recommended precision a model gets there, in ``glimpse_models.facts.TARGETS``.
    """

    name: str
    target: str
    modules: tuple[str, ...]
    backend: tuple[str, str]
    recommendation: str
    distribution: str | None = None
    kv_cache: str | None = None
    takes_threads: bool = False
    builds_engines: bool = False
    widens_weights: bool = False


_TRT = ("glimpse_runtime.backends.trt", "TrtBackend")
DEVICES = {
    device.name: device
    for device in (
        Device(
            "cpu",
            "cpu",
            ("onnxruntime",),
            ("glimpse_runtime.backends.ort", "OrtBackend"),
            "cpu",
            takes_threads=True,
            widens_weights=True,
        ),
        Device(
            "cuda",
            "ort-cuda",
            ("onnxruntime",),
            ("glimpse_runtime.backends.ort_cuda", "OrtCudaBackend"),
            "ort-cuda",
            distribution="onnxruntime-gpu",
            kv_cache="fp16",  # its attention has no kernel for float32
            takes_threads=True,
        ),
        Device("tensorrt", "tensorrt", ("tensorrt",), _TRT, "tensorrt", builds_engines=True),
        Device("tensorrt-rtx", "tensorrt-rtx", ("tensorrt_rtx",), _TRT, "tensorrt", builds_engines=True),
    )
}
DEFAULT_DEVICE = "cpu"


def installed_devices() -> tuple[str, ...]:
    """Returns the devices whose packages are installed; whether there is a GPU is seen when a bundle is loaded."""
    return tuple(name for name, device in DEVICES.items() if _is_installed(device))


def _is_installed(device: Device) -> bool:
    if not all(map(_is_there, device.modules)):
        return False
    if device.distribution is None:
        return True
    try:
        metadata.version(device.distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _is_there(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except (ImportError, ValueError):  # of a package around it, or of a stand-in
        return False
