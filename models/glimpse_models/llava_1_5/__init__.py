"""The LLaVA-1.5 family: CLIP vision tower, MLP projector, LLaMA decoder."""

ARCHITECTURE = "llava_1_5"
MODEL_TYPES = ("llava", "llava_llama", "llava_llama_gp")
