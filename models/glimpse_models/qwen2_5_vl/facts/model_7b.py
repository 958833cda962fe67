"""Qwen2.5-VL-7B-Instruct with the published GlimpsePrune adapter."""

from glimpse_models.facts import ModelFacts, Recommendation
from glimpse_models.qwen2_5_vl.facts.dims import QwenDims
from glimpse_models.qwen2_5_vl.facts.published import published

_DIMS = QwenDims(
    hidden_size=3584,
    layers=28,
    heads=28,
    kv_heads=4,
    intermediate_size=18944,
    vocab_size=152064,
    tied=False,
    reduce_layer=18,
)
FACTS = ModelFacts(
    name="qwen2.5-vl-7b",
    base="Qwen/Qwen2.5-VL-7B-Instruct",
    adapter="ashun989/GlimpsePrune_Qwen2.5-VL-7B-Instruct",
    licence="Apache-2.0",
    terms="Free use with attribution under the Apache License 2.0.",
    dims=_DIMS,
    published=published(_DIMS),
    precision={
        "cpu": Recommendation("int4", vision="int8"),
        "ort-cuda": Recommendation("fp16"),
        "tensorrt": Recommendation("bf16"),
        "orin-8gb": Recommendation("int4", vision="int8"),
    },
)
