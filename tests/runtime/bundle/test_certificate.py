"""A certificate is read strictly, summed up by its worst values, and missed when it is not there."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.bundles import uncertified
from support.certificates import certificate, check

from glimpse_runtime import BundleFormatError, load
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.certificate import CERTIFICATE_NAME, Certificate, Check, read_certificate
from glimpse_runtime.bundle.packaged import packaged_bundle


def read(data: object) -> Certificate:
    return Certificate.from_json(json.dumps(data), "here")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return uncertified(tmp_path / "bundle")


def test_a_good_one_is_read(copy: Path) -> None:
    assert read_certificate(copy) is None
    (copy / "certificate.json").write_text(json.dumps(certificate()))
    found = read_certificate(copy)
    assert found is not None
    assert found.checks == (
        Check("vision", 3, "relative_l2", 1.2e-6, 1e-4, True),
        Check("tokens", None, "agreement", 12, None, True),
    )
    assert isinstance(found.checks[1].value, int)
    assert found.foreign_files(Bundle.open(copy).manifest) == ()


def test_what_was_read_is_written_the_same() -> None:
    text = (packaged_bundle() / CERTIFICATE_NAME).read_text()
    assert Certificate.from_json(text, "here").to_json() == text


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"certificate_version": 2}, "certificate version 2"),
        ({"certificate_version": "1"}, "certificate version '1'"),
        ({"level": "off"}, "level must be one of full, quick"),
        ({"passed": 1}, "passed must be of type bool"),
        ({"versions": ["torch"]}, "versions must be"),
        ({"signature": "x"}, "unknown key signature"),
        ({"checks": [check("vision", "cosine", 0.5, 0.9, passed=False)]}, "passed contradicts the checks"),
        ({"checks": [check("vision", "cosine", True, 0.9)]}, r"checks[0].value must be of type int"),
        ({"checks": [check("vision", "cosine", float("nan"), 0.9)]}, r"checks[0].value must be of type float"),
        ({"checks": [check("vision", "cosine", 0.9, "0.9")]}, r"checks[0].bound must be"),
        ({"checks": [check("vision", "cosine", 0.9, 0.9, layer=1.0)]}, r"checks[0].layer must be of type int"),
        ({"checks": [{"stage": "vision"}]}, r"key checks[0].bound is missing"),
    ],
)
def test_one_that_makes_no_sense_is_refused(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(BundleFormatError) as caught:
        read(certificate(**changes))
    assert str(caught.value).startswith("here")
    assert part in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"{}"])
def test_one_that_is_no_certificate(copy: Path, content: bytes) -> None:
    (copy / "certificate.json").write_bytes(content)
    with pytest.raises(BundleFormatError, match=r"certificate\.json"):
        read_certificate(copy)


def test_a_missing_key_is_named() -> None:
    for key in certificate():
        data = certificate()
        del data[key]
        with pytest.raises(BundleFormatError, match=key.removeprefix("certificate_")):
            read(data)


def test_the_worst_value_of_each_measure() -> None:
    checks = [
        check("vision", "relative_l2", 1e-6, 1e-4, layer=0),
        check("vision", "relative_l2", 3e-6, 1e-4, layer=1),
        check("vision", "cosine", 0.99, 0.9, layer=0),
        check("vision", "cosine", 0.95, 0.9, layer=1),
        check("lower", "relative_l2", 2e-4, 1e-3),
        check("score", "keep_iou", 1.0, None),
        check("score", "keep_iou", 0.8, None, layer=2),
        check("score", "max_abs", 0.3, None),
        check("score", "max_abs", 0.5, None),
    ]
    worst = read(certificate(checks=checks)).worst()
    assert [(c.stage, c.measure, c.value) for c in worst] == [
        ("vision", "relative_l2", 3e-6),
        ("vision", "cosine", 0.95),
        ("lower", "relative_l2", 2e-4),
        ("score", "keep_iou", 0.8),
        ("score", "max_abs", 0.5),
    ]
    checks = [check("lower", "cosine", 0.97, 0.9), check("lower", "cosine", 0.98, 0.99, passed=False, layer=5)]
    (missed,) = read(certificate(passed=False, checks=checks)).worst()
    assert missed.layer == 5


def test_files_that_were_not_compared() -> None:
    manifest = Bundle.open(packaged_bundle()).manifest
    files = {name: spec.sha256 for name, spec in manifest.files.items()}
    other = {**files, "text.data": "0" * 64, "old.data": "1" * 64}
    del other["vision.onnx"]
    assert read(certificate(files=other)).foreign_files(manifest) == ("old.data", "text.data", "vision.onnx")
    assert read(certificate(files={**files, "manifest.json": "2" * 64})).foreign_files(manifest) == ()


def test_load_warns_once_when_there_is_none(copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="glimpse"):
        for _ in range(2):
            load(copy, warmup="off").close()
        load(warmup="off").close()
    (message,) = [record.getMessage() for record in caplog.records]
    assert str(copy) in message
    assert "--certify quick" in message
    caplog.clear()
    certified = Path(shutil.copytree(copy, tmp_path / "certified"))
    (certified / "certificate.json").write_text(json.dumps(certificate()))
    load(certified, warmup="off").close()
    assert not caplog.records


def test_tensors_of_one_measure_count_as_one() -> None:
    checks = [
        check("lower", "wrong_weights a", 0, 0, layer=0),
        check("lower", "wrong_weights", 0, 0, layer=0),
        check("lower", "wrong_weights b", 3, 0, layer=1, passed=False),
    ]
    (worst,) = read(certificate(passed=False, checks=checks)).worst()
    assert (worst.measure, worst.value) == ("wrong_weights b", 3)
