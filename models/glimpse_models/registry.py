"""The models by name."""

from glimpse_models.facts import ModelFacts
from glimpse_models.llava_1_5.facts.model_7b import FACTS as LLAVA_7B
from glimpse_models.llava_1_5.facts.model_13b import FACTS as LLAVA_13B
from glimpse_models.pocket.facts import FACTS as POCKET
from glimpse_models.pocket_plus import FACTS as POCKET_PLUS
from glimpse_models.qwen2_5_vl.facts.model_3b import FACTS as QWEN_3B
from glimpse_models.qwen2_5_vl.facts.model_7b import FACTS as QWEN_7B

_ALL = (POCKET, POCKET_PLUS, QWEN_3B, QWEN_7B, LLAVA_7B, LLAVA_13B)
MODELS: dict[str, ModelFacts] = {facts.name: facts for facts in _ALL}

PACKAGED_BUNDLE = "pocket/bundle"
"""The folder, within this package, of the bundle that ships with it."""


def find(name: str) -> ModelFacts | None:
    """Returns the facts of a named model, None for an unknown name."""
    return MODELS.get(name.lower())
