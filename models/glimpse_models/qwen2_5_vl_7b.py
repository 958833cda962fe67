"""Qwen2.5-VL-7B-Instruct with the published GlimpsePrune adapter."""

from glimpse_models.facts import ModelFacts

FACTS = ModelFacts(
    name="qwen2.5-vl-7b",
    base="Qwen/Qwen2.5-VL-7B-Instruct",
    adapter="ashun989/GlimpsePrune_Qwen2.5-VL-7B-Instruct",
    licence="Apache-2.0",
    terms="Free use with attribution under the Apache License 2.0.",
)
