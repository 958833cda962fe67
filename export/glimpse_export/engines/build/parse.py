"""From a graph in a bundle to a network in TensorRT; every complaint of the parser in one error."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimpse_export.engines.build.prepare import PLUGIN_NAMESPACE, PLUGIN_VERSION, prepare
from glimpse_export.errors import BuildError
from glimpse_runtime.engines.flavours import Installed
from glimpse_runtime.engines.key import COMPACTION
from glimpse_runtime.engines.log import Messages

_SHOWN = 8
_LONGEST = 500


@dataclass(frozen=True)
class Parsed:
    """A parsed network; the parser owns the weights it refers to, so both stay together."""

    network: Any
    parser: Any


def load_plugin(found: Installed, library: Path) -> None:
    """Makes TensorRT know the compaction plugin.

    Raises:
        BuildError: the library cannot be loaded, or holds another plugin.
    """
    registry = found.module.get_plugin_registry()
    if registry.load_library(str(library)) is None:
        raise BuildError(
            f"{found.title} cannot load the compaction plugin {library}; delete its folder to have it compiled again, "
            "or build without it with --no-plugin"
        )
    if registry.get_creator(COMPACTION, PLUGIN_VERSION, PLUGIN_NAMESPACE) is None:
        raise BuildError(f"{library} has no plugin {COMPACTION} of version {PLUGIN_VERSION} for {found.title}")


def parse(found: Installed, builder: Any, logger: Any, messages: Messages, graph: Path, plugin: bool) -> Parsed:
    """Parses a graph.

    Args:
        found: the TensorRT at hand.
        builder: its builder.
        logger: its logger.
        messages: what that logger collects.
        graph: the graph; its weights lie beside it.
        plugin: whether the compaction operator is the plugin's.

    Raises:
        BuildError: the parser refuses the graph; with every node it names.
    """
    trt = found.module
    model = prepare(graph, found.flavour, plugin)
    network = builder.create_network(_flags(trt, found.flavour.typed_by_flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString(), str(graph)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise BuildError(
            f"{found.title} cannot import {graph.name}:{''.join(_lines(errors)) or messages}\n{_advice(found, errors)}"
        )
    return Parsed(network, parser)


def _flags(trt: Any, typed: bool) -> int:
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if typed else 0


def _lines(errors: list[Any]) -> Iterator[str]:
    for error in errors[:_SHOWN]:
        where = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
        yield f"\n  {where}{error.desc()[:_LONGEST]}"
    if len(errors) > _SHOWN:
        yield f"\n  and {len(errors) - _SHOWN} more"


def _advice(found: Installed, errors: list[Any]) -> str:
    dialects = " or ".join(f"--dialect {name}" for name in found.flavour.dialects)
    codes = {str(error.code()).rpartition(".")[2] for error in errors}
    if "MEM_ALLOC_FAILED" in codes:
        return "It ran out of memory; close other programs, or export with a smaller --precision such as int4."
    if "MODEL_DESERIALIZE_FAILED" in codes:
        return "The bundle may be damaged; check it with: glimpse-inspect --verify BUNDLE"
    return (
        f"This version imports what glimpse-export writes with {dialects}; export so, and report it if that was done."
    )
