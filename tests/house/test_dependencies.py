"""Lower bounds of what is installed beside the product exclude versions with published holes that input can reach."""

import re

import pytest
from support.places import ROOT
from test_packages import read_setup

# First version without, and what older ones have.
SAFE_SINCE = {
    "Pillow": ("12.3", "CVE-2026-25990, CVE-2026-59199: writes outside a buffer on a made picture"),
    "torch": ("2.10", "CVE-2025-32434, CVE-2026-24747: a weights_only file runs code"),
    "jinja2": ("3.1.6", "CVE-2025-27516: a template leaves the sandbox"),
    "protobuf": ("5.29.6", "CVE-2025-4565, CVE-2026-0994: nested messages exhaust the stack"),
    "sentencepiece": ("0.2.2", "CVE-2026-1260 and google/sentencepiece#1263: a made vocabulary crashes the process"),
    "onnx": ("1.21", "CVE-2025-51480, CVE-2026-34446: external data lies outside its folder"),
    "transformers": ("4.53", "CVE-2025-6921 and others: patterns that take exponential time"),
    "opencv-python-headless": ("4.8.1.78", "CVE-2023-4863: writes outside a buffer on a made WebP"),
    "pyarrow": ("23.0.1", "CVE-2026-25087, CVE-2023-47248: memory used after it was freed; a file runs code"),
    "scikit-learn": ("1.5", "CVE-2024-5206: a vectoriser keeps words of its training texts"),
}


def bounds() -> list[tuple[str, str]]:
    setup = read_setup()
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    lines = [line for text in lists for line in text.splitlines() if ">=" in line]
    found = [re.match(r"\s*([\w.-]+)\s*>=\s*([\d.]+)", line) for line in lines]
    return [(match[1], match[2]) for match in found if match]


def test_pictures_are_decoded_by_the_newest_line_where_it_exists() -> None:
    """Pillow 13 mends CVE-2026-96639 and does without Python 3.10, whose last line is 12.3."""
    assert [version for package, version in bounds() if package == "Pillow"] == ["13", "12.3"]


def test_onnxruntime_comes_with_one_extra_for_cpus_and_one_for_gpus_alone() -> None:
    """Its two packages overwrite each other's files, so an extra that goes with either may name none."""
    extras = read_setup()["options.extras_require"]
    assert [name for name, text in extras.items() if "onnxruntime" in text] == ["cpu", "gpu"]
    assert "onnxruntime-gpu[cuda,cudnn]" in extras["gpu"]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.mark.parametrize("name", SAFE_SINCE)
def test_no_known_hole_may_be_installed(name: str) -> None:
    least = [version for package, version in bounds() if package.lower() == name.lower()]
    assert least, f"{name} is no dependency any more: take it from the table"
    safe, hole = SAFE_SINCE[name]
    assert all(numbers(version) >= numbers(safe) for version in least), f"{name} {least}: {hole}"


def test_what_continuous_integration_installs_is_inside_the_bounds() -> None:
    pins = [
        line.partition(";")[0].split("==", 1)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    ]
    least = dict(bounds())
    assert all(numbers(version) >= numbers(least[name]) for name, version in pins if name in least)
