"""Builds one engine, in a process of its own."""
