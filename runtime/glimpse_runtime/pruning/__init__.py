"""What a request asks of pruning, the rule that decides, and what is said about it afterwards."""
