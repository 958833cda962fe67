"""NVRTC, CUDA's compiler as a library: found where wheels, JetPack or a toolkit put it, and called by ctypes."""

import ctypes
import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from glimpse_plugins.errors import PluginError

INSTALL = 'pip install "glimpse-edge[cuda]"'
_PATTERN = "nvrtc64_*_0.dll" if sys.platform == "win32" else "libnvrtc.so.[0-9]*"
_MAJORS = (13, 12, 11)
_MAJOR = re.compile(r"(?:libnvrtc\.so\.|nvrtc64_)(\d\d)")


class Nvrtc:
    """The compiler.

    Attributes:
        path: its library.
        version: of CUDA.
    """

    def __init__(self, path: str) -> None:
        """Loads it.

        Raises:
            PluginError: it cannot be loaded, or is none.
        """
        self.path = path
        try:
            self._library = ctypes.CDLL(path)
            self._error_text = self._library.nvrtcGetErrorString
        except (OSError, AttributeError) as error:
            raise PluginError(f"{path} cannot be loaded as NVRTC ({error}); run: {INSTALL}") from None
        self._error_text.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def compile(self, name: str, source: str, headers: Mapping[str, str], architecture: int) -> bytes:
        """Returns code for a GPU.

        Args:
            name: of the source, for messages.
            source: CUDA C++.
            headers: what it includes, by name.
            architecture: of the GPU, 87 for sm_87.

        Raises:
            PluginError: it does not know the GPU, or there is a mistake in the source.
        """
        program = ctypes.c_void_p()
        count = len(headers)
        texts = (ctypes.c_char_p * count)(*(text.encode() for text in headers.values()))
        names = (ctypes.c_char_p * count)(*(key.encode() for key in headers))
        create = (ctypes.byref(program), source.encode(), name.encode(), ctypes.c_int(count), texts, names)
        self._call("nvrtcCreateProgram", *create)
        try:
            words = [f"--gpu-architecture=sm_{architecture}", "--std=c++17"]
            options = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
            status = self._library.nvrtcCompileProgram(program, ctypes.c_int(len(words)), options)
            if status:
                raise PluginError(
                    f"NVRTC of CUDA {self.version} cannot compile {name} for sm_{architecture}: {self._text(status)}\n"
                    f"{self._read('ProgramLog', program).rstrip(bytes(1)).decode(errors='replace').strip()}"
                )
            return self._read("CUBIN", program)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(max(size.value, 1))
        self._call(f"nvrtcGet{what}", program, content)
        return content.raw[: size.value]

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise PluginError(f"{self.path}: {function} failed: {self._text(status)}")

    def _text(self, status: int) -> str:
        return (self._error_text(status) or b"unknown error").decode(errors="replace")


def find_nvrtc(cuda_major: int) -> Nvrtc:
    """Returns the newest NVRTC whose code a driver runs.

    Args:
        cuda_major: version of CUDA that the driver is of; a newer compiler's code may not run there.

    Raises:
        PluginError: there is none, or none can be loaded; with the command.
    """
    problems = []
    found = [(int(match[1]), path) for path in _candidates() if (match := _MAJOR.search(Path(path).name))]
    for major, path in sorted(found, key=lambda item: -item[0]):
        if major > cuda_major:
            problems.append(f"{path} is newer than the driver's CUDA {cuda_major}")
            continue
        try:
            return Nvrtc(path)
        except PluginError as error:
            problems.append(str(error))
    named = [problem for problem in problems if "/" in problem.partition(" ")[0]]
    raise PluginError(
        f"there is no NVRTC (libnvrtc.so) for CUDA {cuda_major} among Python's packages, in CUDA_HOME or on the system"
        f"{''.join(f'; {problem}' for problem in named)}; run: {INSTALL}"
    )


def _candidates() -> Iterator[str]:
    """Paths of libraries that are there, then names that the system's loader may know."""
    folders = []
    wheels = find_spec("nvidia")
    for place in wheels.submodule_search_locations or () if wheels is not None else ():
        folders += sorted(Path(place).glob("*/bin" if sys.platform == "win32" else "*/lib"))
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home:
            folders += [Path(home) / name for name in ("lib64", "lib", "bin")]
    for folder in folders:
        yield from (str(path) for path in sorted(folder.glob(_PATTERN)))
    if sys.platform != "win32":
        yield from (f"libnvrtc.so.{major}" for major in _MAJORS)
