"""``glimpse-inspect``: what a bundle is, without weights and without an engine."""

import json
import os
from pathlib import Path

import pytest
from support.bundles import options, uncertified, write_manifest
from support.certificates import certificate, check
from support.checkpoints import write_model
from support.commands import Command, assert_one_clear_line
from support.places import ROOT

from glimpse_runtime import Session
from glimpse_runtime.bundle.packaged import packaged_bundle
from glimpse_runtime.cli.inspection_text import as_text
from glimpse_runtime.inspection import inspect

INSPECT = "glimpse_runtime.cli.inspect"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return uncertified(tmp_path / "bundle")


def certify(bundle: Path, **changes: object) -> None:
    (bundle / "certificate.json").write_text(json.dumps(certificate(**changes)))


def test_it_needs_no_engine(command: Command, tmp_path: Path) -> None:
    for name in ("onnxruntime", "tokenizers", "huggingface_hub", "torch"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name}', name='{name}')")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "runtime"), str(ROOT / "models")])
    for words in ((), ("--json",), ("--verify",), ("--help",)):
        done = command(INSPECT, *words, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_it_reads_no_weights(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle may be larger than memory, and hashing it takes minutes: only --verify reads its files."""

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("glimpse_runtime.files.hashing.sha256_of", refuse)
    inspect(copy)
    with pytest.raises(AssertionError, match="was read"):
        inspect(copy, verify=True)


def test_compaction_has_the_precision_of_the_cache_it_moves(tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    from glimpse_export import export
    from glimpse_export.weights.precision import Precision

    write_model(tmp_path / "model")
    wanted = options(tmp_path / "model", dialects=("plain",), precision=Precision.choose("fp32", kv_cache="fp16"))
    stages = inspect(export(wanted, tmp_path / "bundle")).graphs["plain"]
    assert {name: stage.precision for name, stage in stages.items()} == {
        **dict.fromkeys(("vision", "vision_update", "score", "lower", "upper"), "fp32"),
        "compact": "fp16",
    }


def test_text_says_it_all(process: Command, copy: Path) -> None:
    done = process(INSPECT, copy)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    total_bytes = sum(path.stat().st_size for path in copy.iterdir() if path.name != "manifest.json")
    for part in (
        "model pocket (qwen2_5_vl)",
        "licence Apache-2.0",
        "base glimpse_models/pocket/checkpoint/base, sha256 3b058a478eb6",
        "dialects ort",
        "after layer K = 2, from attention in layers 1, 2",
        "vision vision.onnx, fp32",
        "in pixel_values float32 (patches, 1176)",
        "in past.0..2.key/value float32 (1, 2, context, 32)",
        "out logits float32 (1, 448)",
        "kv_cache fp32",
        "visual_tokens 1 256 1,024",
        f"total {total_bytes:,}",
        "kv_cache 12.6 MB",
        "no certificate",
    ):
        assert part in text, part
    assert "Warning: no certificate" in done.stderr


def test_json_is_one_stable_object(command: Command, copy: Path) -> None:
    certify(copy)
    done = command(INSPECT, copy, "--json")
    data = json.loads(done.stdout)
    assert set(data) == {
        *("folder", "format_version", "exporter", "model", "dialects", "layers", "lower_layers", "reduce_layer"),
        *(
            "selected_layers",
            "learned",
            "tokenizer",
            "precision",
            "graphs",
            "profiles",
            "files",
            "total_bytes",
            "memory",
        ),
        *("certificate", "warnings"),
    }
    manifest = json.loads((copy / "manifest.json").read_text())
    assert data["files"] == manifest["files"]
    assert data["profiles"] == manifest["profiles"]
    assert data["model"] == manifest["model"]
    assert data["graphs"]["ort"]["lower"] == {**manifest["graphs"]["ort"]["lower"], "precision": "fp32"}
    assert data["warnings"] == []
    assert data["certificate"]["level"] == "quick"
    assert data["certificate"]["worst"][0] == check("vision", "relative_l2", 1.2e-6, 1e-4, layer=3)
    assert done.stderr == ""


def test_memory_is_what_a_session_takes(pocket: Session) -> None:
    plan = pocket.memory_plan()
    for name, size in inspect().memory.items():
        assert size == plan[name] > 0, name


def test_every_precision_and_limit_is_shown(copy: Path) -> None:
    data = json.loads((copy / "manifest.json").read_text())
    data["precision"] = {"vision": "int8", "score": "fp32", "lower": "int4", "upper": "int4", "kv_cache": "fp16"}
    write_manifest(copy, data)
    found = inspect(copy)
    expected = {name: kind for name, kind in data["precision"].items() if name != "kv_cache"}
    assert {name: stage.precision for name, stage in found.graphs["ort"].items()} == {
        **expected,
        "vision_update": expected["vision"],
    }
    assert "kv_cache       fp16" in as_text(found)
    data["precision"]["lower_attention"] = "int8"
    write_manifest(copy, data)
    found = inspect(copy)
    assert found.graphs["ort"]["lower"].precision == "int4, attention int8"
    assert "lower.onnx, int4, attention int8" in as_text(found)
    assert "lower_attention" not in as_text(found)
    data["prompt"] = None
    write_manifest(copy, data)
    assert "token ids only" in as_text(inspect(copy))


def test_certificate_in_text(copy: Path) -> None:
    certify(copy)
    text = " ".join(as_text(inspect(copy)).split())
    assert "certificate quick, passed" in text
    assert "made by glimpse-export --model pocket" in text
    assert "vision relative_l2 1.2e-06 (bound 0.0001, worst in layer 3)" in text
    assert "tokens agreement 12 (no bound)" in text
    assert "MISSED" not in text


def test_certificate_that_is_not_to_be_trusted(command: Command, copy: Path) -> None:
    certify(copy, files={}, passed=False, checks=[check("lower", "cosine", 0.5, 0.9, passed=False)])
    done = command(INSPECT, copy)
    assert done.returncode == 0
    assert "NOT PASSED" in done.stdout
    assert "0.5 (bound 0.9) MISSED" in done.stdout
    assert "Warning: the certificate says that a bound was missed (lower)" in done.stderr
    assert "Warning: the certificate is not of this bundle, these files differ: embed_tokens.bin" in done.stderr
    (copy / "certificate.json").write_text("{}")
    assert_one_clear_line(command(INSPECT, copy), "certificate.json has certificate version None")


def test_verify_finds_what_was_altered(command: Command, copy: Path) -> None:
    done = command(INSPECT, copy, "--verify")
    assert "verified: 12 files of bundle" in done.stderr
    content = bytearray((copy / "text.data").read_bytes())
    content[-1] ^= 1
    (copy / "text.data").write_bytes(content)
    assert command(INSPECT, copy).returncode == 0
    assert_one_clear_line(command(INSPECT, copy, "--verify"), "text.data was altered")
    (copy / "text.data").write_bytes(content[:-1])
    assert_one_clear_line(command(INSPECT, copy), f"text.data has {len(content) - 1} bytes instead of {len(content)}")


def test_what_is_inspected(command: Command, copy: Path, tmp_path: Path) -> None:
    assert json.loads(command(INSPECT, "--json").stdout)["folder"] == str(packaged_bundle().resolve())
    done = command(INSPECT, "--json", GLIMPSE_BUNDLE=str(copy))
    assert json.loads(done.stdout)["folder"] == str(copy)
    assert_one_clear_line(command(INSPECT, tmp_path / "none"), "there is no bundle at")
    assert_one_clear_line(command(INSPECT, copy, "twice"), "twice", code=2)
    assert "bundle format 4" in command(INSPECT, "--version").stdout
