"""Compares ways of pruning in the deployed pipeline; ``benchmarks/accuracy/accuracy.py`` is the command."""
