"""A large file is hashed once, and again as soon as anything about it has changed."""

import hashlib
import os
from pathlib import Path

import pytest

from glimpse_runtime.files import hashing
from glimpse_runtime.files.hashing import FileChangesError, remember_sha256, remembered_sha256

CONTENT, OTHER = b"some content", b"else content"
assert len(CONTENT) == len(OTHER)


def expected(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file counts as large; the files that were read."""
    found: list[Path] = []
    original = hashing.sha256_of
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "REMEMBERED_FROM_BYTES", 1)
    monkeypatch.setattr(hashing, "sha256_of", lambda path: found.append(path) or original(path))
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(CONTENT)
    return path


def test_it_is_read_once(file: Path, reads: list[Path]) -> None:
    said: list[str] = []
    assert remembered_sha256(file, said.append) == remembered_sha256(file, said.append) == expected(CONTENT)
    assert reads == [file]
    assert said == ["hashing weights.bin"]
    assert remembered_sha256(file, anew=True) == expected(CONTENT)
    assert len(reads) == 2


def test_through_a_link_it_is_the_same_file(file: Path, reads: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert remembered_sha256(link) == remembered_sha256(file) == expected(CONTENT)
    assert reads == [file]


def test_written_over_with_its_time_put_back(file: Path, reads: list[Path]) -> None:
    remembered_sha256(file)
    state = file.stat()
    file.write_bytes(OTHER)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert remembered_sha256(file) == expected(OTHER)


def test_another_file_in_its_place(file: Path, reads: list[Path], tmp_path: Path) -> None:
    remembered_sha256(file)
    state = file.stat()
    other = tmp_path / "other"
    other.write_bytes(OTHER)
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(file)
    assert remembered_sha256(file) == expected(OTHER)


def test_what_changes_while_it_is_read_has_no_hash(
    file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = hashing.sha256_of

    def disturbed(path: Path) -> str:
        found = read(path)
        path.write_bytes(OTHER * 2)
        return found

    monkeypatch.setattr(hashing, "sha256_of", disturbed)
    with pytest.raises(FileChangesError):
        remembered_sha256(file)
    monkeypatch.setattr(hashing, "sha256_of", read)
    assert remembered_sha256(file) == expected(OTHER * 2)


@pytest.mark.parametrize("mark", ["", "{", "[]", "{}", '{"state": {}, "sha256": "0"}'])
def test_a_damaged_memory_is_no_memory(file: Path, reads: list[Path], tmp_path: Path, mark: str) -> None:
    remembered_sha256(file)
    (found,) = (tmp_path / "cache" / "hashed").iterdir()
    found.write_text(mark)
    assert remembered_sha256(file) == expected(CONTENT)
    assert len(reads) == 2


def test_without_a_place_to_remember_it_is_read_again(
    file: Path, reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(file))  # no folder can be made below a file
    assert remembered_sha256(file) == remembered_sha256(file) == expected(CONTENT)
    assert len(reads) == 2


def test_small_files_are_read_every_time(file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "REMEMBERED_FROM_BYTES", len(CONTENT) + 1)
    remember_sha256(file, expected(OTHER))
    assert remembered_sha256(file) == remembered_sha256(file) == expected(CONTENT)
    assert len(reads) == 2


def test_what_was_hashed_while_it_was_written_is_not_read(file: Path, reads: list[Path]) -> None:
    remember_sha256(file, expected(CONTENT))
    assert remembered_sha256(file) == expected(CONTENT)
    assert reads == []
