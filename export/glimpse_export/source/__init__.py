"""Reads checkpoints as they lie: folders, weights, adapters, templates, tokenizers."""
