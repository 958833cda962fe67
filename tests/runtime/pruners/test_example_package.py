"""The package of a method in examples/ works and builds."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.places import ROOT
from support.pruners import Install

from glimpse_runtime import Pruning, load
from glimpse_runtime.pruners import GROUP

QUESTION = "What colour is the circle?"
EXAMPLE = ROOT / "examples" / "pruner_package"


def check_example(photo: np.ndarray) -> None:
    with load() as vlm:
        (image,) = vlm.encode(photo)._state.visual  # type: ignore[union-attr]
        report = vlm.ask(photo, QUESTION, pruning=Pruning(method="largest-norm", max_keep_ratio=0.25)).pruning
    lengths = np.sqrt((np.asarray(image.embeds) ** 2).sum(1))
    assert set(np.flatnonzero(report.keep_masks[0])) == set(np.argsort(-lengths)[:24])


def test_the_example_package_works(install: Install, photo: np.ndarray) -> None:
    text = (EXAMPLE / "pyproject.toml").read_text()
    group, name, module, target = re.search(r'entry-points."(.+)"\]\n(.+) = "(.+):(.+)"', text).groups()  # type: ignore[union-attr]
    assert (group, module) == (GROUP, "largest_norm")
    install(name, (EXAMPLE / f"{module}.py").read_text(), target)
    check_example(photo)
    lines = [line for file in EXAMPLE.iterdir() if file.is_file() for line in file.read_text().splitlines()]
    assert len(lines) <= 40


def test_the_example_package_builds(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source = shutil.copytree(EXAMPLE, tmp_path / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-q"]
    subprocess.run([*command, "-w", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "largest-norm = largest_norm:PRUNER" in archive.read(entry_points).decode()
