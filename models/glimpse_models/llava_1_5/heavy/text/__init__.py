"""The prompt and the tokenizer, out of what the authors and llava-hf publish."""
