"""Writes a bundle stage by stage, so that an interrupted export goes on."""
