"""Which files a graph reads its weights from, out of its bytes and without an ONNX library.

A bundle's hashes cover the files that its manifest lists; a graph that reads another one would escape them.
"""

from collections.abc import Iterator

from glimpse_runtime.errors import BundleFormatError

# Field numbers of onnx.proto: ModelProto.graph and .functions, GraphProto.node and .initializer, NodeProto.attribute,
# AttributeProto.t, .g, .tensors and .graphs, TensorProto.external_data.
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY = b"location"
_DEEPEST = 32
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def weight_files(graph: bytes, where: str) -> set[str]:
    """Returns the names of the files that a graph's tensors lie in.

    Args:
        graph: a serialised ONNX model.
        where: what to call its file in errors.

    Raises:
        BundleFormatError: it is not one.
    """
    try:
        return set(_locations(memoryview(graph), "model", 0))
    except (IndexError, ValueError):
        raise BundleFormatError(f"{where} is not an ONNX graph; copy the bundle again") from None


def _locations(data: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if kind == "entry":
        pair = {number: bytes(value) for number, value in _fields(data)}
        if pair.get(1) == _KEY:
            yield pair.get(2, b"").decode()
        return
    for number, value in _fields(data):
        inner = _INSIDE[kind].get(number)
        # Most of a graph is operators, which name no file; searching them takes a tenth of the time of reading them.
        if inner is not None and _KEY in bytes(value):
            yield from _locations(value, inner, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields number and content of the fields that have a length."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, form = tag >> 3, tag & 7
        if form == _BYTES:
            length, place = _varint(data, place)
            if place + length > len(data):
                raise ValueError("cut short")
            yield number, data[place : place + length]
            place += length
        elif form == _VARINT:
            _, place = _varint(data, place)
        elif form in (_EIGHT, _FOUR):
            place += 8 if form == _EIGHT else 4
        else:
            raise ValueError("no field of protobuf")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("no number of protobuf")
