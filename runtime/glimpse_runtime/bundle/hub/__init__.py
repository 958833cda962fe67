"""Bundles and checkpoints from the Hugging Face hub; needs the extra ``hub``."""
