"""The images and prompts that both sides are tried with."""
