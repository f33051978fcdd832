"""Builds objects from a typed configuration; several modules, so that an edit imports no trainer."""
