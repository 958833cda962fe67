"""What pruning costs in accuracy."""
