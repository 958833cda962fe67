"""Bundles of other makers: any manifest, any tokenizer, any certificate."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import fuzzed, outcome, read
from mutating import changed_bytes, changed_json, dumped
from support.bundles import write_manifest

from glimpse_runtime import GlimpseError, Pruning, load
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.inputs.tokenizer import Tokenizer
from glimpse_runtime.inspection import inspect
from glimpse_runtime.session.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FRAME = np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3)
MANIFEST = (packaged_bundle() / "manifest.json").read_bytes()
TOKENIZER = (packaged_bundle() / "tokenizer.json").read_bytes()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(packaged_bundle(), tmp_path_factory.mktemp("fuzz") / "bundle"))


def use(bundle: Path, pruning: Pruning | None = None) -> None:
    with load(bundle, warmup="off") as vlm:
        read(vlm.ask(FRAME, "Is there a star?", pruning=pruning, max_new_tokens=2))


@fuzzed(300)
@given(changed_json(json.loads(MANIFEST)))
def test_manifests_with_other_values(bundle: Path, manifest: Any) -> None:
    if isinstance(manifest, dict):
        write_manifest(bundle, manifest)
    else:
        (bundle / "manifest.json").write_bytes(dumped(manifest))
    outcome(lambda: use(bundle))


@fuzzed(300)
@given(changed_bytes(MANIFEST) | st.binary(max_size=40) | changed_json(json.loads(MANIFEST)).map(dumped))
def test_manifests_of_other_bytes(bundle: Path, data: bytes) -> None:
    (bundle / "manifest.json").write_bytes(data)
    outcome(lambda: use(bundle))


@fuzzed(400)
@given(changed_json(json.loads(TOKENIZER)).map(dumped) | changed_bytes(TOKENIZER))
def test_tokenizers(pocket: Session, bundle: Path, data: bytes) -> None:
    place = bundle / "other.json"
    place.write_bytes(data)
    made = outcome(lambda: Tokenizer(place))
    if isinstance(made, GlimpseError):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pocket, "_reading", replace(pocket._reading, tokenizer=made))
        outcome(lambda: read(pocket.ask(FRAME, "Is there a star? <|im_end|> é", max_new_tokens=3)))


@pytest.mark.parametrize("name", ["certificate.json", "pruner.covipal.npz", "pruner.sdtp.npz", "score.onnx"])
@fuzzed(40)
@given(data=st.data())
def test_other_files(bundle: Path, name: str, data: st.DataObject) -> None:
    original = (packaged_bundle() / name).read_bytes()
    other = changed_bytes(original)
    if name.endswith(".json"):
        other |= changed_json(json.loads(original)).map(dumped)
    content = data.draw(other)
    (bundle / name).write_bytes(content)
    manifest = json.loads(MANIFEST)
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_manifest(bundle, manifest)
    pruner = name.startswith("pruner")
    pruning = Pruning(method=name.split(".")[1], max_keep_ratio=0.5) if pruner else Pruning()
    try:
        outcome(lambda: json.dumps(inspect(bundle), default=str))
        outcome(lambda: use(bundle, pruning))
    finally:
        (bundle / name).write_bytes(original)
