"""From a typed configuration to objects that know nothing of it.

Split by what is built: an edit needs a denoiser and no trainer.
"""
