"""Times and memory of a running session."""
