"""The Qwen2.5-VL family."""
