"""pocket: the tiny trained model that ships with the package."""

from glimpse_models.facts import ModelFacts

FACTS = ModelFacts(
    name="pocket",
    base="package:pocket/checkpoint/base",
    adapter="package:pocket/checkpoint/adapter",
    licence="Apache-2.0",
    terms="Trained for glimpse-edge; free use under the Apache License 2.0.",
)
