"""What must be true of a network before it is built; TensorRT itself ignores some of it in silence."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from glimpse_export.engines.build.report import LayerInfo, NetworkReport, TensorInfo
from glimpse_export.errors import BuildError
from glimpse_export.weights.precision import INTEGER, STORED_DTYPES
from glimpse_runtime.bundle.manifest import StageSpec, TensorSpec
from glimpse_runtime.engines.flavours import Flavour
from glimpse_runtime.engines.key import COMPACTION

_PLUGIN = ("PLUGIN_V3", "PLUGIN_V2", "PLUGIN")
_MATMUL, _CONSTANT, _DEQUANTIZE, _SHAPE = "MATRIX_MULTIPLY", "CONSTANT", "DEQUANTIZE", "SHAPE"
# What may lie between a stored weight and its product.
_PASSED = ("SHUFFLE", "CAST", "IDENTITY", "SQUEEZE", "UNSQUEEZE", _DEQUANTIZE)
_PRECISIONS = {dtype: name for name, dtype in STORED_DTYPES.items()}


def check_typed(report: NetworkReport, stage: str, flavour: Flavour) -> None:
    """Raises a BuildError unless the network is strongly typed.

    Where every network is, TensorRT 11 and TensorRT-RTX, the flag is not passed and what it says is not defined.
    """
    if flavour.typed_by_flag and not report.strongly_typed:
        raise BuildError(f"{stage}: the network is not strongly typed, so TensorRT may round what the graph does not")


def check_interface(report: NetworkReport, stage: str, spec: StageSpec) -> None:
    """Raises a BuildError unless inputs and outputs are those of the manifest, in name, type and shape."""
    for kind, found, expected in (
        ("input", report.inputs, spec.inputs),
        ("output", report.outputs, spec.outputs),
    ):
        by_name = {tensor.name: tensor for tensor in found}
        for tensor in expected:
            if tensor.name not in by_name:
                raise BuildError(f"{stage}: TensorRT dropped {kind} {tensor.name!r} of {spec.file}")
            if not _is_same(by_name.pop(tensor.name), tensor):
                raise BuildError(
                    f"{stage}: {kind} {tensor.name!r} of {spec.file} became {_words(report, tensor.name)} in TensorRT, "
                    f"the manifest says {tensor.dtype} {_shape(tensor.shape)}"
                )
        if by_name:
            raise BuildError(f"{stage}: TensorRT added {kind} {next(iter(by_name))!r} to {spec.file}")


def check_consumed(report: NetworkReport, stage: str) -> None:
    """Raises a BuildError unless the values of every input count for some output.

    The parser ignores inputs it does not know, nonpad_kv_seqlen of Attention for one: the engine builds and is wrong.
    An input whose shape alone is read is ignored as well.
    """
    readers: dict[str, list[LayerInfo]] = defaultdict(list)
    for layer in report.layers:
        for tensor in layer.inputs:
            if tensor is not None:
                readers[tensor.name].append(layer)
    needed = _needed(report)
    for tensor in report.inputs:
        if not any(layer.type != _SHAPE and _outputs(layer) & needed for layer in readers[tensor.name]):
            raise BuildError(
                f"{stage}: input {tensor.name!r} counts for no output: TensorRT ignores it, and the engine would be "
                "wrong; this is a fault of the graph's dialect, please report it"
            )


def check_compaction(report: NetworkReport, stage: str, plugin: bool | None) -> None:
    """Raises a BuildError unless the compaction operator became what was asked for.

    Args:
        report: the network.
        stage: its stage.
        plugin: True for the plugin's layer, False for the function's layers, None for a graph without the operator.
    """
    found = [layer for layer in report.layers if layer.type in _PLUGIN]
    if plugin and not any(layer.type == _PLUGIN[0] for layer in found):
        raise BuildError(
            f"{stage}: {COMPACTION} did not become a {_PLUGIN[0]} layer but {len(report.layers)} layers of its "
            "function; build without the plugin with --no-plugin"
        )
    if not plugin and found:
        raise BuildError(f"{stage}: layer {found[0].name!r} became a {found[0].type} layer, though none was asked for")


def check_precision(report: NetworkReport, stage: str, precisions: Iterable[str]) -> None:
    """Raises a BuildError unless weights are multiplied in the precision that was asked for.

    Float32 beside it is fine as long as it is the smaller part: some matrices are never rounded, such as the patch
    embedding.

    Args:
        report: the network.
        stage: its stage.
        precisions: what its matrices may be written in, by the names of ``glimpse-export --precision``.
    """
    asked = set(precisions)
    values: dict[str, int] = defaultdict(int)
    for layer, precision, count in _weight_products(report):
        if precision not in asked and precision != "fp32":
            raise BuildError(
                f"{stage}: layer {layer.name!r} multiplies its weights in {precision}, "
                f"the manifest says {' and '.join(sorted(asked))}"
            )
        values[precision] += count
    rounded = sum(count for precision, count in values.items() if precision in asked)
    if values and rounded * 2 < sum(values.values()):
        raise BuildError(
            f"{stage}: most weights are multiplied in fp32, the manifest says {' and '.join(sorted(asked))}"
        )


def _weight_products(report: NetworkReport) -> Iterator[tuple[LayerInfo, str, int]]:
    """Returns the layers that multiply by a stored matrix, with its precision and number of values."""
    makers = _makers(report)
    for layer in report.layers:
        if layer.type != _MATMUL:
            continue
        for tensor in layer.inputs:
            stored = None if tensor is None else _stored(tensor, makers)
            if tensor is not None and stored is not None:
                yield layer, _precision(tensor, stored), math.prod(stored.shape or ())
                break


def _stored(tensor: TensorInfo, makers: dict[str, LayerInfo]) -> TensorInfo | None:
    """Returns the stored matrix that an operand is, None when it is computed."""
    while (maker := makers.get(tensor.name)) is not None:
        if maker.type == _CONSTANT:
            return maker.outputs[0] if len(maker.outputs[0].shape or ()) > 1 else None
        if maker.type not in _PASSED or maker.inputs[0] is None:
            return None
        tensor = maker.inputs[0]
    return None


def _precision(operand: TensorInfo, stored: TensorInfo) -> str:
    if stored.dtype in INTEGER:
        return stored.dtype
    return _PRECISIONS.get(operand.dtype, operand.dtype)


def _needed(report: NetworkReport) -> set[str]:
    """Returns the names of the tensors that count for some output."""
    makers = _makers(report)
    needed: set[str] = set()
    todo = [tensor.name for tensor in report.outputs]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            if name in makers:
                todo += [tensor.name for tensor in makers[name].inputs if tensor is not None]
    return needed


def _makers(report: NetworkReport) -> dict[str, LayerInfo]:
    """Returns the layer that every tensor comes from, by name; inputs of the network come from none."""
    return {tensor.name: layer for layer in report.layers for tensor in layer.outputs}


def _outputs(layer: LayerInfo) -> set[str]:
    return {tensor.name for tensor in layer.outputs}


def _is_same(found: TensorInfo, expected: TensorSpec) -> bool:
    if found.dtype != expected.dtype or found.shape is None or len(found.shape) != len(expected.shape):
        return False
    pairs = zip(found.shape, expected.shape, strict=True)
    return all(dim == -1 or dim == wanted or isinstance(wanted, str) for dim, wanted in pairs)


def _words(report: NetworkReport, name: str) -> str:
    tensor = next(tensor for tensor in (*report.inputs, *report.outputs) if tensor.name == name)
    return f"{tensor.dtype} {_shape(tensor.shape or ())}"


def _shape(shape: Iterable[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
