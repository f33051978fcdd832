"""The split into training and validation images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

SPLITS = ("train", "val")


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; a source has {' and '.join(SPLITS)}")


def held_out(names: Sequence[str], fraction: float) -> list[bool]:
    """Chooses about a `fraction`, in [0, 1), of the images for validation by a hash of their names: True if chosen.

    The choice ignores the order and other images, so a growing set keeps its split. If validation (for a fraction above
    0) or training would be empty, the image with the lowest or highest hash moves; a single image goes to training.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"val_fraction must lie in [0, 1), got {fraction}; 0 holds nothing out")
    if len(names) == 1:
        return [False]
    hashes = [int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "big") for name in names]
    chosen = [value < fraction * 2**64 for value in hashes]
    if fraction > 0 and names:
        if not any(chosen):
            chosen[hashes.index(min(hashes))] = True
        if all(chosen):
            chosen[hashes.index(max(hashes))] = False
    return chosen
