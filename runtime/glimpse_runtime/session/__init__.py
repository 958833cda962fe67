"""Load once, ask many: sessions, scenes, answers."""
