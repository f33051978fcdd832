"""The user study: people choose between two methods' edits of the same guide, without knowing whose they are.

    folders of edits -> build_study -> a file -> StudyServer, which raters' browsers ask -> the file with their answers
    -> summarise -> how often one method is preferred to another

Only `build` reads images with PyTorch. To serve and to report, the standard library is enough, so that a small machine
can do it and a server starts at once; this file therefore imports nothing.

Source: Meng et al., "SDEdit", ICLR 2022, section 5: pairwise comparisons of realism, and of faithfulness and
satisfaction given the guide.
"""
