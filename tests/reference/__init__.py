"""GlimpsePrune on Qwen2.5-VL in plain torch: an independent reading of the algorithm for the tests."""

from reference.model import Reference, Request
from reference.parts import margin, patches

__all__ = ["Reference", "Request", "margin", "patches"]
