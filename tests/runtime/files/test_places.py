"""Where files lie, and how they are written and locked."""

import stat
from pathlib import Path

import pytest

from glimpse_runtime.files.atomic import open_atomic, write_text
from glimpse_runtime.files.lock import locked
from glimpse_runtime.files.places import cache_folder, is_plain_name


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GLIMPSE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "glimpse"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/glimpse")
    monkeypatch.setenv("GLIMPSE_CACHE", "/own")
    assert cache_folder() == Path("/own")


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/../../b", "/a", "a\\b", "a\0b"])
def test_names_that_lead_elsewhere(name: str) -> None:
    assert not is_plain_name(name)


@pytest.mark.parametrize("name", ["a", "a.b", "a/b", ".a", "a..b"])
def test_names_below_the_folder(name: str) -> None:
    assert is_plain_name(name)


def write_half(path: Path) -> None:
    with open_atomic(path) as file:
        file.write(b"half")
        raise ValueError("unusable")


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "before")
    with pytest.raises(ValueError, match="unusable"):
        write_half(path)
    assert path.read_text() == "before"
    write_text(path, "after")
    assert path.read_text() == "after"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_a_folder_has_one_holder(tmp_path: Path) -> None:
    """The lock is the open file's, so a second holder in this process is like one in another."""
    folder = tmp_path / "work"
    with locked(folder) as first:
        assert first
        with locked(folder) as second:
            assert not second
    with locked(folder) as again:
        assert again
