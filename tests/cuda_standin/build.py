"""Stand-ins of the CUDA libraries that an onnxruntime-gpu loads, built of what its provider asks for: gcc, no CUDA."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_SOURCES = _HERE / "libraries"
_LIBCUDA = _HERE.parent / "stand_ins" / "libcuda.cpp"
_CSRC = _HERE.parents[1] / "plugins" / "glimpse_plugins" / "csrc"
_FAMILIES = ("cublasLt", "cublas", "cudnn", "cufft", "curand", "cuda", "cu")
_LAUNCHES = re.compile(
    r"cublas\w*(?:gemm|Gemm|geam|Matmul$|Transform$|copy|scal)|cudnn\w+Forward|cudnn(?:Reduce|Add)Tensor"
)


def build(provider: Path, folder: Path) -> None:
    """Builds the libraries for one wheel.

    Args:
        provider: its libonnxruntime_providers_cuda.so.
        folder: where they go; it belongs on LD_LIBRARY_PATH.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed = re.findall(r"\[(lib(?:cu)\S+)\]", _output("readelf", "-d", str(provider)))
    asked = set(re.findall(r"\bU ((?:__cuda|cu)\w+)", _output("nm", "-D", "--undefined-only", str(provider))))
    asked |= set(re.findall(r"^(cudnn[A-Z]\w+)$", _output("strings", str(provider)), re.M))  # looked up when it runs
    sonames = {*needed, "libcudnn.so.9", "libcuda.so.1"}
    major = 13 if "libcudart.so.13" in sonames else 12
    _compile(folder / "libledger.so", [_SOURCES / "ledger.cpp"], [])
    by_family: dict[str, list[str]] = {family: [] for family in (*_FAMILIES, "cudart")}
    for name in asked:
        family = next(family for family in _FAMILIES if name.lstrip("_").startswith(family))
        by_family["cudart" if family == "cuda" else family].append(name)
    for soname in sorted(sonames):
        family = soname.removeprefix("lib").partition(".")[0]
        if family == "cuda":
            _library(
                folder, soname, by_family["cu"], _LIBCUDA, [f"-I{_CSRC}", "-std=c++17", "-DGLIMPSE_HOST", "-DLEDGER"]
            )
        elif family == "cudart":
            _library(folder, soname, by_family[family], _SOURCES / "cudart.cpp", [f"-DCUDA_MAJOR={major}"])
        else:
            _library(folder, soname, by_family[family], _SOURCES / "others.cpp", [f"-DSTANDIN_{family.upper()}"])


def _library(folder: Path, soname: str, names: Sequence[str], source: Path, flags: Sequence[str]) -> None:
    made = folder / f"{soname}.cpp"
    made.write_text(_succeeding(names, set(re.findall(r"\b(?:__)?cu\w+(?=\()", source.read_text()))))
    version = folder / f"{soname}.map"
    version.write_text(f"{soname} {{ global: *; }};\n")
    script = [] if soname == "libcuda.so.1" else [f"-Wl,--version-script={version}"]
    linked = [*flags, *script, f"-Wl,-soname,{soname}", f"-L{folder}", "-lledger"]
    _compile(folder / soname, [source, made], linked)


def _succeeding(names: Sequence[str], written: set[str]) -> str:
    """Functions that succeed, and are counted where they would start work on the device."""
    lines = ['#include "ledger.h"', "static char object;", 'extern "C" {']
    for name in sorted(set(names) - written):
        if "Create" in name or name.endswith("Instantiate") or re.search("LibraryLoadData|LibraryGetKernel", name):
            body = "*made = &object;"
        else:
            body = f'ledger_count("launch", "{name}");' if _LAUNCHES.search(name) else ""
        lines.append(f"int {name}({'void **made, ...' if 'made' in body else '...'}) {{ {body} return 0; }}")
    return "\n".join([*lines, "}", ""])


def _compile(out: Path, sources: Sequence[Path], flags: Sequence[str]) -> None:
    names = [str(source) for source in sources]
    command = ["g++", "-shared", "-fPIC", "-O1", "-w", f"-I{_SOURCES}", *names, *flags, "-o", str(out)]
    subprocess.run(command, check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
