"""What an export costs and its bundle needs, said before anything is written."""
