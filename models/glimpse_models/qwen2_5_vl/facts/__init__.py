"""What is known of the models before any of their files is read."""
