"""What the weights of the published LLaVA-1.5 models may be used for."""

LICENCE = "Llama 2 Community License (LLM, projector); MIT (CLIP); Apache-2.0 (adapter)"
TERMS = "Use under Meta's licence and acceptable use policy; instruction data made with GPT-4 add OpenAI's terms."
