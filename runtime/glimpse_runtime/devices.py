"""Where a bundle can run, by name. Nothing is imported to tell."""

from importlib import metadata, util

_CUDA = "cuda.bindings"
# What each device needs: modules, and one of some distributions where the module's name does not tell them apart.
_MODULES = {
    "cpu": ("onnxruntime",),
    "cuda": ("onnxruntime", _CUDA),
    "tensorrt": ("tensorrt", _CUDA),
    "tensorrt-rtx": ("tensorrt_rtx", _CUDA),
}
_CUDA_PROVIDER = "onnxruntime-gpu"
DEVICES = tuple(_MODULES)


def installed_devices() -> tuple[str, ...]:
    """Returns the devices whose packages are installed; whether there is a GPU is seen when a bundle is loaded."""
    return tuple(name for name in DEVICES if all(map(_is_there, _MODULES[name])) and _has_provider(name))


def _is_there(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except (ImportError, ValueError):  # of a package around it, or of a stand-in
        return False


def _has_provider(device: str) -> bool:
    if device != "cuda":
        return True
    try:
        metadata.version(_CUDA_PROVIDER)
    except metadata.PackageNotFoundError:
        return False
    return True
