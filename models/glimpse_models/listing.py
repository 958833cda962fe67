"""The models by name as readable text, for ``glimpse-export --list``."""

from glimpse_models.facts import ModelFacts
from glimpse_models.registry import MODELS

_WIDTH = 12


def listing() -> str:
    """Returns a paragraph per model."""
    return "\n\n".join(_describe(facts) for facts in MODELS.values())


def _describe(facts: ModelFacts) -> str:
    dims = facts.dims
    by_precision: dict[str, list[str]] = {}
    for target, precision in facts.precision.items():
        by_precision.setdefault(str(precision), []).append(target)
    rows = [
        ("base", facts.base),
        *([("lora", facts.lora)] if facts.lora else []),
        ("adapter", " or ".join((facts.adapter, *facts.adapter_alternatives))),
        (
            "size",
            f"{_count(dims.parameters)} parameters, {_count(dims.vision_parameters)} of them vision; "
            f"{dims.layers} layers of {dims.hidden_size}, tokens dropped after layer {dims.reduce_layer}",
        ),
        ("precision", "; ".join(f"{', '.join(targets)}: {name}" for name, targets in by_precision.items())),
        ("licence", facts.licence),
        ("terms", facts.terms),
    ]
    return "\n".join([facts.name, *(f"  {label:<{_WIDTH}}{value}" for label, value in rows)])


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} billion" if parameters >= 1e9 else f"{parameters / 1e6:.1f} million"
