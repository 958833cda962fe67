"""The original, run layer by layer: transformers' model, and the method in plain torch."""
