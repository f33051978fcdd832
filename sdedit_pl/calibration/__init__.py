"""Calibration of t0: by a sweep over images of the domain, or by the distance that an edit may keep to its guide."""
