"""Opens a bundle and makes it ready to answer."""

import os

from glimpse_runtime.backends import open_backend
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.certificate import warn_if_uncertified
from glimpse_runtime.bundle.locate import locate
from glimpse_runtime.bundle.memory import DEFAULT_SCENE_CACHE_BYTES
from glimpse_runtime.checked import choice, flag, shown, whole
from glimpse_runtime.errors import InputError
from glimpse_runtime.session import costs
from glimpse_runtime.session.session import Session
from glimpse_runtime.steps.pipeline import Pipeline, Trace

WARMUPS = ("smallest", "largest", "off")


def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    max_pixels: int | None = None,
    scene_cache_bytes: int = DEFAULT_SCENE_CACHE_BYTES,
    warmup: str = "smallest",
    verify: bool = False,
    trace: Trace | None = None,
    calibrate: bool = False,
) -> Session:
    """Opens a bundle and makes it ready to answer.

    Args:
        bundle: the bundle's folder, or the id ``owner/name`` or ``owner/name@revision`` of one on the hub, which is
            downloaded once (extra ``hub``); a folder of that name comes first. None is the packaged pocket model.
        device: where to run: ``cpu``; ``cuda`` for ONNX Runtime on a GPU; ``tensorrt`` or ``tensorrt-rtx`` for
            engines that ``glimpse-export --target`` has built on this machine.
        threads: CPU threads per operator; None lets the engine choose. Not for TensorRT.
        max_pixels: shrink images to at most this many pixels; None, or more than the bundle's limit, is that limit.
        scene_cache_bytes: memory for the last images asked about, so that asking about the same image again is
            fast; 0 keeps nothing, right for a camera whose frames never repeat.
        warmup: ``smallest`` runs every graph once, so that the first question is not slower than the next;
            ``largest`` does so at the largest image and context, so that all memory is taken now and no later
            request can fail for it; ``off`` does nothing.
        verify: hash every file of the bundle, even if that was done before.
        calibrate: measure what stages cost with this bundle on this machine, if that was not done before; needed once
            for ``budget_ms``. It takes as long as some dozens of questions.
        trace: called with the name and value of intermediate arrays; the arrays are live, copy what you keep.

    Raises:
        BundleError: the bundle is missing, damaged or of another version.
        BackendError: the engine is missing or cannot load the graphs.
        InputError: an option is out of its range.
    """
    choice("warmup", warmup, WARMUPS)
    flag("verify", verify)
    flag("calibrate", calibrate)
    if not isinstance(device, str):
        raise InputError(f"device must be a name such as cpu, found {shown(device)}")
    if trace is not None and not callable(trace):
        raise InputError(f"trace must be a function of a name and an array, found {shown(trace)}")
    scene_cache_bytes = whole("scene_cache_bytes", scene_cache_bytes, 0)
    opened = Bundle.open(locate(bundle), verify=verify)
    warn_if_uncertified(opened)
    backend = open_backend(device, threads)
    try:
        pipeline = Pipeline(opened, backend, trace)
        if warmup != "off":
            pipeline.warm_up(largest=warmup == "largest")
        session = Session(opened, pipeline, max_pixels, scene_cache_bytes)
        place = costs.place_of(opened.manifest, device, threads)
        session.costs = costs.read(place)
        if calibrate and session.costs is None:
            session.costs = costs.measure(session.ask, opened.manifest, pipeline.family)
            costs.write(place, session.costs)
        return session
    except BaseException:
        backend.close()
        raise
