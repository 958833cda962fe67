"""Qwen2.5-VL-3B-Instruct with the published GlimpsePrune adapter."""

from glimpse_models.facts import ModelFacts, Recommendation
from glimpse_models.qwen2_5_vl.facts.dims import QwenDims
from glimpse_models.qwen2_5_vl.facts.published import published

_DIMS = QwenDims(
    hidden_size=2048,
    layers=36,
    heads=16,
    kv_heads=2,
    intermediate_size=11008,
    vocab_size=151936,
    tied=True,
    reduce_layer=23,
)
FACTS = ModelFacts(
    name="qwen2.5-vl-3b",
    base="Qwen/Qwen2.5-VL-3B-Instruct",
    adapter="ashun989/GlimpsePrune_Qwen2.5-VL-3B-Instruct",
    licence="Qwen Research Licence",
    terms="The base weights are for research and other non-commercial use; see the licence on their hub page.",
    dims=_DIMS,
    published=published(_DIMS),
    precision={
        "cpu": Recommendation("int4", vision="int8"),
        "ort-cuda": Recommendation("fp16"),
        "tensorrt": Recommendation("bf16"),
        "orin-8gb": Recommendation("int4", vision="fp16"),
    },
)
