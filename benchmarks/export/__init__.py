"""What an export, and building engines after it, take."""
