"""pocket-plus: pocket's decoder fine-tuned under pruning, as a LoRA adapter, with a glimpse of its own."""

from dataclasses import replace

from glimpse_models.pocket.facts import FACTS as POCKET

FACTS = replace(POCKET, name="pocket-plus", lora="package:pocket/plus/lora", adapter="package:pocket/plus/adapter")
