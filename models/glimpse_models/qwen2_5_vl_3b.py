"""Qwen2.5-VL-3B-Instruct with the published GlimpsePrune adapter."""

from glimpse_models.facts import ModelFacts

FACTS = ModelFacts(
    name="qwen2.5-vl-3b",
    base="Qwen/Qwen2.5-VL-3B-Instruct",
    adapter="ashun989/GlimpsePrune_Qwen2.5-VL-3B-Instruct",
    licence="Qwen Research Licence",
    terms="The base weights are for research and other non-commercial use; see the licence on their hub page.",
)
