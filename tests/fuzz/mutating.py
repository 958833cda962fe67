"""Files and values as nobody means them: JSON with one value changed, bytes cut and flipped, numbers of every kind."""

import copy
import json
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

NUMBERS = (0, 1, -1, 2, 255, 2**31, 2**32, 2**63, -(2**63), 10**40, 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf)
TEXTS = (
    "",
    " ",
    "x",
    "../x",
    "/",
    "\x00",
    "\x1b[2J",
    "a\nb",
    "\ud800",
    "é",
    "\u2028",
    "bfloat16",
    "x" * 5000,
    "(",
    "(a*)*b",
    "{{",
    "float16",
)
WORDS = (b"{{", b"%}", b"{% for a in range(99999999) %}", b"}", b"[", b'"', b"\\", b"\x00", b"\xff" * 8, b"\x80\x04")
NESTED: Any = [[[[[[[[1]]]]]]]]

json_values: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from((None, True, False, *NUMBERS)),
    st.sampled_from(TEXTS),
    st.sampled_from(([], {}, [None], [1, 2], [""], {"": 1}, {"\x1b": {}}, NESTED)),
    st.integers(),
    st.text(max_size=8),
)

values: st.SearchStrategy[Any] = st.one_of(
    json_values,
    st.sampled_from(
        (np.int64(3), np.uint8(0), np.float32(0.5), np.float64("nan"), np.bool_(True), np.array(1), np.ones(2))
    ),
    st.sampled_from((b"", b"\xff", (), (1,), ("",), set(), object(), 1j, lambda *words: None, Exception("\x1b"))),
)


@st.composite
def changed_json(draw: st.DrawFn, document: Any) -> Any:
    """A document with one to three values replaced, deleted, or under another name."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(changed))
        if not places:
            return draw(json_values)
        holder, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(("replace", "replace", "delete", "rename")))
        if action == "replace":
            holder[key] = copy.deepcopy(draw(json_values))
        elif action == "delete":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(TEXTS))] = holder.pop(key)
        else:
            holder.append(copy.deepcopy(holder[key]))
    return changed


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes cut, lengthened, or with some replaced, mostly near the start, where headers are."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        near = draw(st.booleans())
        place = draw(st.integers(0, max(0, (min(len(changed), 256) if near else len(changed)) - 1)))
        action = draw(st.sampled_from(("put", "put", "put", "cut", "insert", "remove")))
        if action == "put":
            new = draw(st.binary(min_size=1, max_size=8) | st.sampled_from(WORDS))
            changed[place : place + len(new)] = new
        elif action == "cut":
            del changed[place:]
        elif action == "insert":
            changed[place:place] = draw(st.binary(max_size=16) | st.sampled_from(WORDS))
        else:
            del changed[place : place + draw(st.integers(1, 16))]
    return bytes(changed)


def dumped(document: Any) -> bytes:
    """JSON of a document; also of what JSON does not have, such as NaN."""
    return json.dumps(document).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a document."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *_places(value[key])]
    return found
