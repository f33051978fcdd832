"""A loss that is not finite is found late, but its step is named exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from unittest.mock import Mock

import lightning
import pytest
import torch
from torch import Tensor, nn

from sdedit_pl.training.divergence_watch import Diverged, DivergenceWatch

NAN, INFINITE = float("nan"), float("inf")


def trainer_at(step: int, gather: Callable[[Tensor], Tensor] = lambda seen: seen) -> Mock:
    trainer = Mock(spec=lightning.Trainer, global_step=step)
    trainer.strategy.all_gather = gather
    return trainer


def watched(losses: Sequence[float], first_step: int = 1) -> DivergenceWatch:
    watch = DivergenceWatch()
    for step, loss in enumerate(losses, start=first_step):
        watch.observe(torch.tensor(loss), step)
    return watch


@pytest.mark.parametrize("bad", [NAN, INFINITE, -INFINITE])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_the_first_step_without_a_finite_loss_is_named(place: int, bad: float) -> None:
    losses = [0.5] * 5
    losses[place] = bad
    with pytest.raises(Diverged, match=f"the loss of step {place + 101} is not finite;.* optimizer.rate"):
        watched(losses, 101).check(trainer_at(105), nn.Linear(2, 2))


def test_finite_losses_and_weights_pass_and_the_next_check_starts_anew() -> None:
    watch, network = watched([0.5, 0.1]), nn.Linear(2, 2)
    watch.check(trainer_at(2), network)
    watch.check(trainer_at(2), network)  # nothing new
    for step, loss in ((3, 0.2), (4, NAN), (5, 0.3)):
        watch.observe(torch.tensor(loss), step)
    with pytest.raises(Diverged, match="step 4 "):
        watch.check(trainer_at(5), network)


def test_weights_are_checked_too() -> None:
    network = nn.Linear(2, 2)
    nn.init.constant_(network.bias, NAN)
    with pytest.raises(Diverged, match="the weights after step 7 are not finite"):
        watched([0.5], 7).check(trainer_at(7), network)


def test_the_first_bad_loss_of_any_device_counts_on_all() -> None:
    def with_another_device(seen: Tensor) -> Tensor:
        return torch.stack([seen, torch.tensor([3.0, 0.0])])  # its last three losses were not finite

    for losses in ([0.5] * 5, [0.5, 0.5, 0.5, NAN, NAN]):
        with pytest.raises(Diverged, match="step 3 "):
            watched(losses).check(trainer_at(5, with_another_device), nn.Linear(2, 2))
