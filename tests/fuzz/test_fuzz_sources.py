"""Sources of an export: any configuration, any adapter, any header of weights."""

import json
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import fuzzed, outcome
from mutating import changed_bytes, changed_json, dumped
from support.bundles import options
from support.places import GOLDEN

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from glimpse_export import plan
from glimpse_export.forecast.text import describe, to_json

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CONFIGURATIONS = (
    "base/config.json",
    "base/generation_config.json",
    "base/preprocessor_config.json",
    "adapter/config.json",
)
WEIGHTS, ADAPTER = "base/model.safetensors", "adapter/new_modules_gp.pt"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    for part in ("base", "adapter"):
        shutil.copytree(GOLDEN / part, folder / part)
    return folder


def dry_run(source: Path, name: str, data: bytes) -> None:
    """Plans with one file's content replaced, as ``glimpse-export --dry-run`` does."""
    (source / name).write_bytes(data)

    def run() -> str:
        checked = plan(options(source))
        return describe(checked) + to_json(checked)

    try:
        outcome(run)
    finally:
        shutil.copy(GOLDEN / name, source / name)


@pytest.mark.parametrize("name", CONFIGURATIONS)
@fuzzed(100)
@given(data=st.data())
def test_configurations(source: Path, name: str, data: st.DataObject) -> None:
    original = (GOLDEN / name).read_bytes()
    dry_run(source, name, data.draw(changed_json(json.loads(original)).map(dumped) | changed_bytes(original)))


@fuzzed(100)
@given(data=st.data())
def test_headers_of_weights(source: Path, data: st.DataObject) -> None:
    original = (GOLDEN / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", original[:8])[0]
    header = dumped(data.draw(changed_json(json.loads(original[8 : 8 + length]))))
    whole = struct.pack("<Q", len(header)) + header + original[8 + length :]
    dry_run(source, WEIGHTS, data.draw(st.just(whole) | changed_bytes(original)))


@fuzzed(100)
@given(data=changed_bytes((GOLDEN / ADAPTER).read_bytes()))
def test_adapters(source: Path, data: bytes) -> None:
    dry_run(source, ADAPTER, data)
