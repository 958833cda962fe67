"""Facts about the models glimpse-edge knows by name, one small file per model."""

from glimpse_models.dims import Dims
from glimpse_models.facts import TARGETS, ModelFacts, Recommendation
from glimpse_models.registry import MODELS, PACKAGED_BUNDLE, find

__all__ = ["MODELS", "PACKAGED_BUNDLE", "TARGETS", "Dims", "ModelFacts", "Recommendation", "find"]
