"""pocket: the tiny trained model that ships with the package."""

from glimpse_models.facts import TARGETS, ModelFacts, Recommendation
from glimpse_models.qwen2_5_vl.facts.dims import QwenDims

FACTS = ModelFacts(
    name="pocket",
    base="package:pocket/checkpoint/base",
    adapter="package:pocket/checkpoint/adapter",
    licence="Apache-2.0",
    terms="Trained for glimpse-edge; free use under the Apache License 2.0.",
    dims=QwenDims(
        hidden_size=128,
        layers=6,
        heads=4,
        kv_heads=2,
        intermediate_size=384,
        vocab_size=448,
        tied=False,
        reduce_layer=2,
        taps=(3, 1),
        vision_hidden_size=128,
        vision_depth=4,
        vision_heads=4,
        vision_intermediate_size=320,
        full_attention=(1, 3),
    ),
    precision=dict.fromkeys(TARGETS, Recommendation("fp32")),
)
