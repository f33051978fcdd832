"""From a user's files to tensors: guides, masks, strength maps, pasted objects and simulated strokes."""
