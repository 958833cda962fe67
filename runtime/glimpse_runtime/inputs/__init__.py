"""From what a caller gives to what a model takes: pictures, grids, prompts, tokens."""
