"""The Qwen2.5-VL family."""

ARCHITECTURE = "qwen2_5_vl"
MODEL_TYPES = ("qwen2_5_vl", "qwen2_5_vl_gp")
