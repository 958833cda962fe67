"""LoRA adapters as peft saves them, merged into the base while it is read."""
