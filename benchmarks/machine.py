"""What this machine can do at best: bytes read and matrices multiplied per second, measured here and now."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

READ_BYTES = 256 << 20
ROWS, COLUMNS, OUTPUTS = 1024, 2048, 11008


def best_of(runs: int, work: Callable[[], object]) -> float:
    """Returns the shortest time of some runs in seconds: the peak is what others on the machine left alone."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def read_bytes_per_s(runs: int = 7) -> float:
    """Returns how fast all cores together read memory that no cache holds."""
    cores = os.cpu_count() or 1
    parts = [np.ones(READ_BYTES // 4, np.float32) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:
        spent = best_of(runs, lambda: list(pool.map(lambda part: float(part @ part), parts)))
    return cores * READ_BYTES / spent


def float_flops_per_s(runs: int = 5) -> float:
    """Returns floating-point operations per second of numpy's float32 product at the size of a 3B model's MLP."""
    x, w = np.ones((ROWS, COLUMNS), np.float32), np.ones((COLUMNS, OUTPUTS), np.float32)
    return 2 * ROWS * COLUMNS * OUTPUTS / best_of(runs, lambda: x @ w)


def integer_flops_per_s(runs: int = 5) -> float:
    """Returns the same of onnxruntime's product of eight-bit integers, the fastest there is on a CPU."""
    weight = helper.make_tensor("w", TensorProto.INT8, (COLUMNS, OUTPUTS), bytes(COLUMNS * OUTPUTS), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "peak",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [ROWS, COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [ROWS, OUTPUTS])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.ones((ROWS, COLUMNS), np.uint8)
    return 2 * ROWS * COLUMNS * OUTPUTS / best_of(runs, lambda: session.run(None, {"x": x}))


def matrix_values(path: str) -> dict[str, int]:
    """Returns how many values every weight matrix of a graph has, by the name of its product's result."""
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    found = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            sizes = {attribute.name: attribute.i for attribute in node.attribute}
            found[node.output[0]] = sizes["K"] * sizes["N"]
        elif node.op_type in ("MatMul", "Gemm") and len(shapes.get(node.input[1], ())) == 2:
            found[node.output[0]] = int(np.prod(shapes[node.input[1]]))
    return found
