"""LLaVA-1.5-13B with the published GlimpsePrune adapter."""

from glimpse_models.facts import ModelFacts, Recommendation
from glimpse_models.llava_1_5.facts.dims import LlavaDims
from glimpse_models.llava_1_5.facts.licence import LICENCE, TERMS
from glimpse_models.llava_1_5.facts.published import published

_DIMS = LlavaDims(hidden_size=5120, layers=40, heads=40, kv_heads=40, intermediate_size=13824, reduce_layer=26)
FACTS = ModelFacts(
    name="llava-1.5-13b",
    base="liuhaotian/llava-v1.5-13b",
    # The hub shows a hyphen, the authors' README an underscore.
    adapter="ashun989/GlimpsePrune-LLaVA-1.5-13B",
    adapter_alternatives=("ashun989/GlimpsePrune_LLaVA-1.5-13B",),
    licence=LICENCE,
    terms=TERMS,
    dims=_DIMS,
    published=published(_DIMS),
    precision={
        "cpu": Recommendation("int4", vision="int8"),
        "ort-cuda": Recommendation("fp16"),
        "tensorrt": Recommendation("fp16"),
        "orin-8gb": Recommendation("int4", vision="int8"),
    },
)
