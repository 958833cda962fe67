"""One check per stage: both sides run it, and the difference is recorded."""
