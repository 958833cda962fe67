"""Hashes of a model's files: once for large ones, never taken from the names that a hub client gives."""

import os
import subprocess
from pathlib import Path

import pytest

from glimpse_export import CheckpointError
from glimpse_export.source.hashes import content_sha256
from glimpse_export.write.sources import Sources
from glimpse_runtime.files.hashing import sha256_of


def test_large_files_are_hashed_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("glimpse_runtime.files.hashing.REMEMBERED_FROM_BYTES", 4)
    said: list[str] = []
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"first content")
    first = content_sha256(file, said.append)
    assert first == sha256_of(file)
    assert content_sha256(file, said.append) == first
    assert said == ["hashing model.safetensors"]
    state = file.stat()
    file.write_bytes(b"other content")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert content_sha256(file, said.append) == sha256_of(file) != first
    next((tmp_path / "cache" / "hashed").iterdir()).write_text("{")
    assert content_sha256(file, said.append) == sha256_of(file)
    link = tmp_path / "snapshot.safetensors"
    file.rename(blob)
    link.symlink_to(blob)
    with pytest.raises(CheckpointError, match=r"snapshot\.safetensors is damaged: it is not what the hub has"):
        content_sha256(link, said.append)
    with pytest.raises(CheckpointError, match="cannot read"):
        content_sha256(file, said.append)


def test_the_hash_of_shards_is_that_of_their_list(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    shards = {name: sha256_of(tmp_path / name) for name in ("b.safetensors", "a.safetensors")}
    listed = subprocess.run(
        "sha256sum *.safetensors | sha256sum", shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Sources(shards, "", None).base_sha256 == listed.stdout.split()[0]
    assert Sources({"one": "abc"}, "", None).base_sha256 == "abc"
