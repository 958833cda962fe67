"""Sources of an export: any configuration, adapter, LoRA, tokenizer, template, and any header of weights."""

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
from support.places import GOLDEN, ROOT

pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

from glimpse_export import ExportOptions, plan
from glimpse_export.forecast.text import describe, to_json

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

POCKET = ROOT / "models" / "glimpse_models" / "pocket"
ORIGINALS = {
    "base": GOLDEN / "base",
    "adapter": GOLDEN / "adapter",
    "pocket": POCKET / "checkpoint" / "base",
    "plus": POCKET / "plus" / "adapter",
    "lora": POCKET / "plus" / "lora",
}
GOLDEN_FILES = (
    "base/config.json",
    "base/generation_config.json",
    "base/preprocessor_config.json",
    "base/model.safetensors",
    "adapter/config.json",
    "adapter/new_modules_gp.pt",
)
POCKET_FILES = (
    "pocket/chat_template.jinja",
    "pocket/tokenizer.json",
    "pocket/tokenizer_config.json",
    "plus/new_modules_gp.pt",
    "lora/adapter_config.json",
    "lora/adapter_model.safetensors",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name, original in ORIGINALS.items():
        shutil.copytree(original, folder / name)
    return folder


@pytest.mark.parametrize("name", GOLDEN_FILES)
@fuzzed(60)
@given(data=st.data())
def test_a_model_and_its_adapter(source: Path, name: str, data: st.DataObject) -> None:
    dry_run(source, name, data, options(source))


@pytest.mark.parametrize("name", POCKET_FILES)
@fuzzed(30)
@given(data=st.data())
def test_a_tokenizer_and_a_lora(source: Path, name: str, data: st.DataObject) -> None:
    made = ExportOptions(str(source / "pocket"), str(source / "plus"), str(source / "lora"), certify="off")
    dry_run(source, name, data, made)


def dry_run(source: Path, name: str, data: st.DataObject, made: ExportOptions) -> None:
    """Plans with one file's content changed, as ``glimpse-export --dry-run`` does."""
    folder, file = name.split("/")
    original = (ORIGINALS[folder] / file).read_bytes()
    (source / name).write_bytes(data.draw(changed_file(file, original)))

    def run() -> str:
        checked = plan(made)
        if made.tokenizer:  # what the export itself reads first
            checked.family.read_prompt(checked.folders.base, checked.architecture)
        return describe(checked) + to_json(checked)

    try:
        outcome(run)
    finally:
        (source / name).write_bytes(original)


def changed_file(name: str, original: bytes) -> st.SearchStrategy[bytes]:
    """A file with other bytes, or with other values in the JSON that it consists of or begins with."""
    if name.endswith(".json"):
        return changed_json(json.loads(original)).map(dumped) | changed_bytes(original)
    if name.endswith(".safetensors"):
        length = struct.unpack("<Q", original[:8])[0]
        headers = changed_json(json.loads(original[8 : 8 + length])).map(dumped)
        rest = original[8 + length :]
        return headers.map(lambda header: struct.pack("<Q", len(header)) + header + rest) | changed_bytes(original)
    return changed_bytes(original)
