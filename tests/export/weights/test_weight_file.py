"""A weight file that was interrupted goes on behind what its journal names, and trusts nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx_ir")

from glimpse_export.weights import file as weights
from glimpse_export.weights.file import WeightFile
from glimpse_export.weights.journal import journal_of
from glimpse_runtime.files.hashing import sha256_of


class Store:
    """A weight file that is written tensor by tensor, with a journal after each."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weights, "_JOURNAL_EACH_BYTES", 1)
        self.path = path
        self.tensors = {f"t{i}": np.random.default_rng(i).random(300 + i).astype(np.float32) for i in range(6)}

    def write(self, stop_at: str | None = None) -> list[str]:
        """Writes all tensors, or up to one; returns those whose bytes were asked for."""
        asked: list[str] = []

        def parts(name: str) -> Callable[[], list[np.ndarray]]:
            def give() -> list[np.ndarray]:
                if name == stop_at:
                    raise KeyboardInterrupt
                asked.append(name)
                return [self.tensors[name]]

            return give

        with WeightFile(self.path) as file:
            for name, array in self.tensors.items():
                file.store(name, "float32", array.shape, parts(name))
        assert file.spec().sha256 == sha256_of(self.path)
        return asked


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    Store(tmp_path / "whole" / "w.data", monkeypatch).write()
    stopped = Store(tmp_path / "cut" / "w.data", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        stopped.write("t4")
    return stopped


def same(store: Store) -> bool:
    return store.path.read_bytes() == (store.path.parents[1] / "whole" / "w.data").read_bytes()


def test_a_weight_file_goes_on_behind_its_last_whole_tensor(store: Store) -> None:
    assert store.write() == ["t4", "t5"]
    assert same(store)


@pytest.mark.parametrize("cut", [2, 30, 200])
def test_a_journal_with_a_torn_tail(store: Store, cut: int) -> None:
    journal = journal_of(store.path)
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert 2 < len(store.write()) < 6
    assert same(store)


def test_a_journal_that_is_no_journal(store: Store) -> None:
    for content in (b"", b"\xff\xfe", b'{"a": 1}\n', b"[1, 2]\n", b'["t0", -5, 3, "FLOAT", [1], "x"]\n'):
        journal_of(store.path).write_bytes(content)
        assert len(store.write()) == 6
        assert same(store)


def test_a_journal_that_claims_what_is_not_there(store: Store) -> None:
    data = bytearray(store.path.read_bytes())
    data[2500] ^= 1
    store.path.write_bytes(data)
    assert store.write() == ["t2", "t3", "t4", "t5"]
    assert same(store)
    store.path.write_bytes(data[:1000])
    assert len(store.write()) == 6
    assert same(store)


def test_a_journal_of_other_tensors(store: Store) -> None:
    store.tensors = {**dict(list(store.tensors.items())[:2]), "new": np.ones(7, np.float32)}
    assert store.write() == ["new"]
    assert store.path.stat().st_size == store.path.read_bytes().rindex(np.float32(1).tobytes()) + 4


def test_bytes_that_a_bundle_shares_are_not_written_over(store: Store, tmp_path: Path) -> None:
    bundle = tmp_path / "shared.data"
    bundle.hardlink_to(store.path)
    before = bundle.read_bytes()
    store.tensors = {"t0": np.zeros(3000, np.float32)}
    store.write()
    assert bundle.read_bytes() == before
