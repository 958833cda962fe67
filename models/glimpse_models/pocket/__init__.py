"""Pocket: a tiny Qwen2.5-VL with a glimpse token, trained from nothing by this package."""
