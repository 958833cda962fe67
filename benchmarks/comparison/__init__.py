"""Compares ways of pruning in the deployed pipeline; ``benchmarks/accuracy.py`` is the command."""
