"""Measurements that need a GPU; README.md says how to run them."""
