"""Lets TensorRT build an engine, and writes it to a file."""

import hashlib
from typing import Any, BinaryIO

from glimpse_runtime.bundle.manifest import FileSpec
from glimpse_runtime.engines.flavours import Installed


def write_engine(found: Installed, builder: Any, network: Any, config: Any, file: BinaryIO) -> FileSpec | None:
    """Builds an engine into an open file.

    Where TensorRT can hand an engine over piece by piece, there is no whole copy of it in memory: for 631 MB of fp16
    weights TensorRT-RTX 1.7 takes 1.6 GB at most instead of 2.0 GB.

    Returns:
        Size and hash of the engine, None when TensorRT cannot build it; its logger has the reason.
    """
    output = _Output(file)
    if not found.flavour.streams:
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            return None
        output.write(memoryview(plan))
    elif not _stream(found.module, builder, network, config, output):
        return None
    return output.spec()


class _Output:
    """A file that knows the hash of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._nbytes = 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._file.write(view)
        self._digest.update(view)
        self._nbytes += view.nbytes
        return view.nbytes

    def spec(self) -> FileSpec:
        return FileSpec(self._nbytes, self._digest.hexdigest())


def _stream(trt: Any, builder: Any, network: Any, config: Any, output: _Output) -> bool:
    failures: list[OSError] = []

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: Any) -> int:
            try:
                return output.write(data)
            except OSError as error:  # an exception would be lost between here and the builder
                failures.append(error)
                return 0

    writer = Writer()
    built = builder.build_serialized_network_to_stream(network, config, writer)
    if failures:
        raise failures[0]
    return bool(built)
