"""Boards by name: what glimpse-export chooses for them, and how much memory they leave to a model.

Worked out from data sheets and NVIDIA's documentation; nothing here was measured on the boards.
"""

import difflib
import re
from dataclasses import dataclass

from glimpse_runtime.bundle.dialects import OPSET24, PLAIN

_UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "TIB": 1 << 40,
}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Z]*)")

# Dialects of one bundle share their weights, so a board whose JetPack is not known gets both.
_EITHER_JETPACK = (OPSET24, PLAIN)
_ORIN_SOFTWARE = "JetPack 6: TensorRT 10.3; JetPack 7.2: 10.16"


@dataclass(frozen=True)
class Board:
    """A board, or a desktop GPU of some size.

    Attributes:
        memory_gib: its memory; a desktop's is the GPU's.
        capability: compute capability, None for any.
        software: what there is to run on.
        target: the target of an export for it.
        dialects: the dialects of a bundle for it.
        precision: whose recommended precision it gets, in ``glimpse_models.facts.TARGETS``.
        max_context: rows of the KV cache, None for what the model has by default.
        max_visual_tokens: largest image, None for the same.
        lm_head_parts: parts the LM head is multiplied in, for want of contiguous memory.
        shared: CPU and GPU share the memory.
    """

    memory_gib: int
    capability: str | None
    software: str
    target: str = "tensorrt"
    dialects: tuple[str, ...] = _EITHER_JETPACK
    precision: str = "tensorrt"
    max_context: int | None = None
    max_visual_tokens: int | None = None
    lm_head_parts: int = 1
    shared: bool = True


def _small_orin(memory_gib: int, max_context: int, max_visual_tokens: int) -> Board:
    return Board(
        memory_gib,
        "8.7",
        _ORIN_SOFTWARE,
        precision="orin-8gb",
        max_context=max_context,
        max_visual_tokens=max_visual_tokens,
        lm_head_parts=2,
    )


def _desktop(memory_gib: int, precision: str) -> Board:
    return Board(
        memory_gib,
        None,
        "TensorRT-RTX 1.7",
        target="tensorrt-rtx",
        dialects=(OPSET24,),
        precision=precision,
        shared=False,
    )


BOARDS = {
    "orin-nano-4gb": _small_orin(4, 1024, 512),
    "orin-nano-8gb": _small_orin(8, 2048, 1024),
    "orin-nx-8gb": _small_orin(8, 2048, 1024),
    "orin-nx-16gb": Board(16, "8.7", _ORIN_SOFTWARE, max_visual_tokens=1536),
    "agx-orin-32gb": Board(32, "8.7", _ORIN_SOFTWARE),
    "agx-orin-64gb": Board(64, "8.7", _ORIN_SOFTWARE),
    "thor-128gb": Board(128, "11.0", "JetPack 7.0: TensorRT 10.13; JetPack 7.2: 10.16"),
    "rtx-8gb": _desktop(8, "orin-8gb"),
    "rtx-12gb": _desktop(12, "tensorrt"),
    "rtx-16gb": _desktop(16, "tensorrt"),
    "rtx-24gb": _desktop(24, "tensorrt"),
    "rtx-32gb": _desktop(32, "tensorrt"),
}
# Assumptions: firmware and kernel keep a share of a shared memory, a system without a desktop the rest; a desktop's
# GPU draws the screen as well.
_KEPT_SHARE = 1 / 20
_SYSTEM_BYTES = 1 << 30
_SCREEN_BYTES = 1 << 29


@dataclass(frozen=True)
class Budget:
    """Memory that a model may have at run time.

    Attributes:
        name: what the user called it.
        nbytes: the memory there is.
        reserve_bytes: the part of it that others need.
    """

    name: str
    nbytes: int
    reserve_bytes: int = 0

    @property
    def available_bytes(self) -> int:
        """What is left for the model."""
        return self.nbytes - self.reserve_bytes


def parse_budget(text: str) -> Budget:
    """Reads an amount such as ``8GiB`` or ``6000 MB``, or the name of a board.

    Raises:
        ValueError: it is neither, or nothing at all.
    """
    board = BOARDS.get(text.lower())
    if board is not None:
        nbytes = board.memory_gib << 30
        reserve_bytes = int(nbytes * _KEPT_SHARE) + _SYSTEM_BYTES if board.shared else _SCREEN_BYTES
        return Budget(text.lower(), nbytes, reserve_bytes)
    found = _AMOUNT.fullmatch(text.strip().upper())
    if found is None or found[2] not in _UNITS:
        near = difflib.get_close_matches(text.lower(), BOARDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"boards: {', '.join(BOARDS)}"
        raise ValueError(f"{text!r} is no amount of memory such as 8GiB or 6000MB, and no board; {hint}")
    amount = float(found[1]) * _UNITS[found[2]]
    if amount >= _UNITS["TIB"] << 20:
        raise ValueError(f"{text[:40]!r} is more memory than any machine has")
    nbytes = int(amount)
    if nbytes < _UNITS["MIB"]:
        raise ValueError(f"{text!r} is less than one MiB; give a unit, such as {found[1]}GiB")
    return Budget(text, nbytes)
