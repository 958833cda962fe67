"""The dialects of ONNX that a bundle's graphs are written in, in one table.

How each is spelled is a file of ``glimpse_export.graphs.dialects``; which engine reads which, the backends and
``glimpse_runtime.engines.flavours`` say.
"""

ORT = "ort"
"""ONNX Runtime's own operators."""
OPSET24 = "opset24"
"""Attention and rotary embedding as operators of opset 24: TensorRT from 10.15 and TensorRT-RTX."""
PLAIN = "plain"
"""Primitives of opset 20 alone: TensorRT from 10.3."""
DIALECTS = (ORT, OPSET24, PLAIN)
"""All of them, in the order in which a bundle lists them."""


def graph_name(stage: str, dialect: str) -> str:
    """Returns the name of a stage's graph, which is its file's without ``.onnx``: the stage alone for ``ort``."""
    return stage if dialect == ORT else f"{stage}.{dialect}"


def stage_and_dialect(name: str) -> tuple[str, str]:
    """Returns what a graph's name says: the stage and the dialect."""
    stage, _, dialect = name.partition(".")
    return stage, dialect or ORT
