"""Calibration of t0: by a sweep over images of the domain, or from the largest allowed distance of edits to guides."""
