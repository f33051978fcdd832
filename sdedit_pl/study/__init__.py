"""The user study: raters choose between two methods' edits of the same guide without knowing which method made which.

Only `study_builder` and `paired_images` import PyTorch, so that a small machine can serve and report a study and the
server starts instantly. For the same reason this file imports nothing.

Source: Meng et al., "SDEdit", ICLR 2022, section 5 (realism; faithfulness and satisfaction given the guide).
"""
