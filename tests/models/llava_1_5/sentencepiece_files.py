"""Writes sentencepiece models byte by byte: what the exporter reads with protobuf is stated here a second time."""

import struct
from collections.abc import Sequence
from pathlib import Path

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
Piece = tuple[str, float, int]
MERGED = (
    *("▁t", "he", "▁the", "in", "ing", "▁US", "ER", "▁▁", "▁▁▁▁", "▁▁▁", "▁a", "US", "AS", "SIS", "ANT", "SISANT"),
    *("aa", "aaa", "ab", "ba", "aba", "abab", "ababa", "▁ab", "é日", "日é", "é日é", "\n\n", "▁\n", "an", "▁an", "\n▁"),
    *("er", "▁ass", "iss", "ist", "ant", "▁assist", "or", "▁user", "us", "▁user'", "'s", "▁ques", "tion", "s."),
)
"""Words in the order of their merging, with some that overlap themselves."""
CHARACTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEINRSTU'.,:!?é日1<>/\n"


def pieces(merged: Sequence[str] = MERGED) -> list[Piece]:
    """Returns special words, bytes, merged words and single characters, as LLaMA orders them."""
    special = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    single = [(f"<0x{value:02X}>", 0.0, BYTE) for value in range(256)]
    words = dict.fromkeys([*merged, *sorted({*CHARACTERS, *"".join(merged)})])
    return special + single + [(word, -float(rank), NORMAL) for rank, word in enumerate(words)]


def write_model(
    path: Path,
    words: Sequence[Piece] | None = None,
    trainer: Sequence[tuple[int, int]] = ((3, 2), (35, 1)),
    normalizer: Sequence[tuple[int, int | bytes]] = ((1, b"identity"), (3, 1), (4, 0), (5, 1)),
) -> Path:
    """Writes a model.

    Args:
        path: of the file.
        words: its pieces.
        trainer: fields of its trainer: 3 is the kind (2 for BPE), 24 spaces behind words, 35 byte fallback.
        normalizer: fields of its normalizer: 2 replaced characters, 3 a space in front, 4 spaces collapsed, 5 shown.
    """
    entries = [
        _field(1, _field(1, word.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _field(3, kind))
        for word, score, kind in (pieces() if words is None else words)
    ]
    settings = [b"".join(_field(*field) for field in fields) for fields in (trainer, normalizer)]
    path.write_bytes(b"".join(entries) + _field(2, settings[0]) + _field(3, settings[1]))
    return path


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
