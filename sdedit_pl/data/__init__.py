"""Images for training and validation: sources, their order and the Lightning data module."""
