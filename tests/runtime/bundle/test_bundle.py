"""A bundle that is not whole is refused by name: every file, every key, every way it can be wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from glimpse_runtime import BundleDamagedError, BundleFormatError, BundleNotFoundError
from glimpse_runtime.bundle.bundle import Bundle
from glimpse_runtime.bundle.manifest import Manifest


@pytest.fixture
def copy(golden_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_bundle, tmp_path / "bundle"))


def edit(bundle: Path, *keys: str, value: Any) -> None:
    """Sets (or with ... deletes) one key of the manifest."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(data))


def test_manifest_survives_a_round_trip(golden_bundle: Path) -> None:
    manifest = Bundle.open(golden_bundle).manifest
    assert Manifest.from_json(manifest.to_json(), "here") == manifest


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="there is no bundle at"):
        Bundle.open(tmp_path / "none")
    with pytest.raises(BundleNotFoundError, match=r"has no manifest\.json"):
        Bundle.open(tmp_path)
    with pytest.raises(FileNotFoundError):
        Bundle.open(tmp_path)


def test_every_file_is_checked(golden_bundle: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in golden_bundle.iterdir() if path.name != "manifest.json")
    assert {"vision.onnx", "lower.onnx", "score.onnx", "upper.onnx", "text.data", "embed_tokens.bin"} <= set(names)
    for name in names:
        bundle = Path(shutil.copytree(golden_bundle, tmp_path / name))
        path = bundle / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(BundleDamagedError, match=f"{name} was altered"):
            Bundle.open(bundle)
        path.write_bytes(content[:-1])
        with pytest.raises(BundleDamagedError, match=f"{name} has .* bytes instead of"):
            Bundle.open(bundle)
        path.unlink()
        with pytest.raises(BundleDamagedError, match=f"{name} is missing"):
            Bundle.open(bundle)


def test_large_bundles_are_hashed_once_and_again_when_touched(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glimpse_runtime.files.hashing.REMEMBERED_FROM_BYTES", 0)
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    hashed: list[str] = []
    from glimpse_runtime.files import hashing as module

    original = module.sha256_of

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return original(path)

    monkeypatch.setattr(module, "sha256_of", counting)
    Bundle.open(copy)
    first = len(hashed)
    Bundle.open(copy)
    assert len(hashed) == first > 0
    Bundle.open(copy, verify=True)
    assert len(hashed) == 2 * first
    data = bytearray((copy / "text.data").read_bytes())
    data[0] ^= 1
    (copy / "text.data").write_bytes(data)
    with pytest.raises(BundleDamagedError, match=r"text\.data was altered"):
        Bundle.open(copy)


# A cache of another length than the profile's.
PAST = {"name": "past.0.key", "dtype": "float32", "shape": [1, 2, 7, 4]}


@pytest.mark.parametrize(
    ("keys", "value", "part"),
    [
        (("format_version",), 99, "format version 99"),
        (("format_version",), ..., "format version None"),
        (("text",), ..., "key text is missing"),
        (("text", "heads"), ..., "key text.heads is missing"),
        (("text", "heads"), "four", "text.heads must be of type int"),
        (("text", "heads"), True, "text.heads must be of type int"),
        (("glimpse", "speed"), 1, "unknown key glimpse.speed"),
        (("pruning", "threshold"), None, "pruning.threshold must be of type float"),
        (("graphs",), {}, "there are no graphs"),
        (("graphs", "ort", "vision"), ..., "stage 'vision' of ort is missing"),
        (("graphs", "ort", "lower", "inputs"), [PAST], "values of graphs make no sense"),
        (("graphs", "ort", "vision", "file"), "other.onnx", "'other.onnx' is used but not listed"),
        (("files", "../outside"), {"bytes": 1, "sha256": ""}, "leaves the bundle folder"),
        (("files", "/etc/passwd"), {"bytes": 1, "sha256": ""}, "leaves the bundle folder"),
        (("embedding", "dtype"), "int3", "embedding.dtype 'int3'"),
        (("embedding", "rows"), 5, "values of embedding make no sense"),
        (("files", ""), {"bytes": 1, "sha256": ""}, "leaves the bundle folder"),
        (("files", "a\0b"), {"bytes": 1, "sha256": ""}, "leaves the bundle folder"),
        (("profiles", "context"), ..., "profile 'context' is missing"),
        (("profiles", "windows"), ..., "profile 'windows' is missing"),
        (("profiles", "context", "max"), 10**12, "values of profiles make no sense"),
        (("profiles", "context", "max"), -1, "values of profiles make no sense"),
        (("text", "head_dim"), 6, "values of text make no sense"),
        (("text", "rope_theta"), -1.0, "values of text make no sense"),
        (("text", "rope_theta"), 10**400, "text.rope_theta must be of type float"),
        (("family", "window_size"), 1, "values of family make no sense"),
        (("family", "speed"), 1, "unknown key family.speed"),
        (("vision", "hidden_size"), 0, "values of vision make no sense"),
        (("family", "images", "patch_size"), 0, "values of family.images make no sense"),
        (("family", "rope_theta"), 1e300, "values of family.rope_theta make no sense"),
        (("family", "images", "std"), [1e-30, 1.0, 1.0], "values of family.images make no sense"),
        (("family", "images", "std"), [1.0], "values of family.images make no sense"),
        (("pruning", "threshold"), 5.0, "values of pruning make no sense"),
        (("pruning", "anchors"), ["up"], "values of pruning make no sense"),
        (("tokens", "image"), 10**6, "values of tokens make no sense"),
        (("generation", "repetition_penalty"), 0.0, "values of generation make no sense"),
    ],
)
def test_manifest_is_read_strictly(copy: Path, keys: tuple[str, ...], value: Any, part: str) -> None:
    edit(copy, *keys, value=value)
    with pytest.raises(BundleFormatError) as caught:
        Bundle.open(copy)
    assert part in str(caught.value)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 200_000])
def test_manifest_that_is_no_json(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleFormatError, match=r"manifest\.json"):
        Bundle.open(copy)


def test_a_link_that_leaves_the_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "text.data").rename(tmp_path / "text.data")
    (copy / "text.data").symlink_to(tmp_path / "text.data")
    with pytest.raises(BundleFormatError, match="leaves the bundle folder"):
        Bundle.open(copy)
