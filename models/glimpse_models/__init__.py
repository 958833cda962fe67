"""Facts about the models glimpse-edge knows by name, one small file per model."""

from glimpse_models.dims import Dims
from glimpse_models.facts import TARGETS, ModelFacts, Precision
from glimpse_models.registry import MODELS, find

__all__ = ["MODELS", "TARGETS", "Dims", "ModelFacts", "Precision", "find"]
