"""What was asked for and what follows from it: options, targets, boards, profiles, the checked plan."""
