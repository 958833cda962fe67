"""The model families: a package each, found by the architecture of a bundle or the model type of a checkpoint.

A family's package says its ``ARCHITECTURE`` and ``MODEL_TYPES``. Its module ``light.family`` is what the runtime needs
of it (``glimpse_runtime.inputs.family``), its module ``heavy.family`` what export needs
(``glimpse_export.model.family``).
"""

import importlib
from types import ModuleType

from glimpse_models import llava_1_5, qwen2_5_vl

FAMILIES: tuple[ModuleType, ...] = (qwen2_5_vl, llava_1_5)
ARCHITECTURES: tuple[str, ...] = tuple(family.ARCHITECTURE for family in FAMILIES)


def light(architecture: str) -> ModuleType | None:
    """Returns what the runtime needs of a family, None for an unknown architecture."""
    for family in FAMILIES:
        if architecture == family.ARCHITECTURE:
            return importlib.import_module(f"{family.__name__}.light.family")
    return None


def heavy(model_type: object) -> ModuleType | None:
    """Returns what export needs of a family, by the ``model_type`` of a ``config.json``; None for an unknown one."""
    for family in FAMILIES:
        if model_type in family.MODEL_TYPES:
            return importlib.import_module(f"{family.__name__}.heavy.family")
    return None
