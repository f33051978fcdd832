"""Measures of edits: faithfulness to the guide, realism of a set, and closeness to the training images."""
