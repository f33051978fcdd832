"""The batch that fits into memory."""

from __future__ import annotations

import pytest
import torch

from sdedit_pl.training.memory_trial import largest_batch


@pytest.mark.parametrize(
    ("too_large", "room", "expected", "tried"),
    [(50, 20, 10, [25, 10]), (12, 4, 4, [6, 4]), (4, 0, None, [2, 1]), (1, 0, None, [])],
)
def test_a_divisor_of_the_batch_that_fits_is_found(
    too_large: int, room: int, expected: int | None, tried: list[int]
) -> None:
    seen = []

    def step(batch: int) -> None:
        seen.append(batch)
        if batch > room:
            raise torch.OutOfMemoryError("too large")

    assert largest_batch(step, too_large) == expected
    assert seen == tried
