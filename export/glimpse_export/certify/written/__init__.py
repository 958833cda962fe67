"""Reads what was written: cuts of graphs, and their weights as they are stored."""
