"""Checkpoints with random weights that look like published ones: files, shapes, sizes of the activations."""
