"""The steps of one answer, in the order of the paper."""
