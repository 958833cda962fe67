"""LLaVA-1.5-7B with the published GlimpsePrune adapter."""

from glimpse_models.facts import ModelFacts, Recommendation
from glimpse_models.llava_1_5.facts.dims import LlavaDims
from glimpse_models.llava_1_5.facts.licence import LICENCE, TERMS
from glimpse_models.llava_1_5.facts.published import published

_DIMS = LlavaDims(hidden_size=4096, layers=32, heads=32, kv_heads=32, intermediate_size=11008)
FACTS = ModelFacts(
    name="llava-1.5-7b",
    base="liuhaotian/llava-v1.5-7b",
    adapter="ashun989/GlimpsePrune_LLaVA-1.5-7B",
    licence=LICENCE,
    terms=TERMS,
    dims=_DIMS,
    published=published(_DIMS),
    precision={
        "cpu": Recommendation("int4", vision="int8"),
        "ort-cuda": Recommendation("fp16"),
        "tensorrt": Recommendation("fp16"),
        "orin-8gb": Recommendation("int4", vision="fp16"),
    },
)
