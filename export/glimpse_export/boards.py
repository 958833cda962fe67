"""How much memory a model may have at run time: an amount, or what is left on a board."""

import difflib
import re
from dataclasses import dataclass

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

# CPU and GPU of these boards share one memory. GiB by name.
BOARDS = {
    "orin-nano-4gb": 4,
    "orin-nano-8gb": 8,
    "orin-nx-8gb": 8,
    "orin-nx-16gb": 16,
    "agx-orin-32gb": 32,
    "agx-orin-64gb": 64,
    "thor-128gb": 128,
}
# An assumption, not measured on the boards: firmware and kernel keep a share, a system without a desktop the rest.
_KEPT_SHARE = 1 / 20
_SYSTEM_BYTES = 1 << 30


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
    if text.lower() in BOARDS:
        nbytes = BOARDS[text.lower()] << 30
        return Budget(text.lower(), nbytes, int(nbytes * _KEPT_SHARE) + _SYSTEM_BYTES)
    found = _AMOUNT.fullmatch(text.strip().upper())
    if found is None or found[2] not in _UNITS:
        near = difflib.get_close_matches(text.lower(), BOARDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"boards: {', '.join(BOARDS)}"
        raise ValueError(f"{text!r} is no amount of memory such as 8GiB or 6000MB, and no board; {hint}")
    nbytes = int(float(found[1]) * _UNITS[found[2]])
    if nbytes < _UNITS["MIB"]:
        raise ValueError(f"{text!r} is less than one MiB; give a unit, such as {found[1]}GiB")
    return Budget(text, nbytes)
