"""pocket's network in torch, its sizes and its tokenizer."""
