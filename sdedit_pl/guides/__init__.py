"""Guides, masks and strength maps, read from a user's files; pasted objects and simulated strokes."""
