"""Facts about the models glimpse-edge knows by name, one small file per model."""

from glimpse_models.facts import ModelFacts
from glimpse_models.registry import MODELS, find

__all__ = ["MODELS", "ModelFacts", "find"]
