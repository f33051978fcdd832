"""Learning-rate schedules in closed form, and the settings of the optimisers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sdedit_pl.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    Adam,
    AdamW,
    Constant,
    Cosine,
    InverseSquareRoot,
    Muon,
    Trapezoid,
    orthogonalised,
)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_linear_and_multiplies_the_decay(schedule: str) -> None:
    warm, cold = SCHEDULES[schedule](warmup_steps=10), SCHEDULES[schedule]()
    for step in range(30):
        expected = min(1.0, (step + 1) / 10) * cold.factor(step, 3000)
        assert warm.factor(step, 3000) == pytest.approx(expected)
    assert 0 < warm.factor(0, 3000) <= 0.1 and cold.factor(0, 3000) == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_step_of_a_run_has_a_positive_rate_and_none_rises_after_the_warm_up(schedule: str) -> None:
    factors = [SCHEDULES[schedule]().factor(step, 3000) for step in range(3000)]
    assert factors[0] == 1 and min(factors) > 0
    assert all(later <= earlier for earlier, later in pairwise(factors))


def test_schedules_follow_their_formulas() -> None:
    assert Constant().factor(10**9, 10) == 1
    assert Cosine().factor(50, 200) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert Cosine().factor(200, 200) == pytest.approx(0) and Cosine().factor(300, 200) == pytest.approx(0)
    trapezoid = Trapezoid(decay_steps=100)
    assert [trapezoid.factor(step, 1000) for step in (0, 900, 950, 999, 1000, 1001)] == [1, 1, 0.5, 0.01, 0, 0]
    assert InverseSquareRoot(reference_steps=100).factor(100, 1) == 1
    assert InverseSquareRoot(reference_steps=100).factor(400, 1) == pytest.approx(0.5)


def test_invalid_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_steps .* got -1"):
        Constant(warmup_steps=-1)
    with pytest.raises(ValueError, match=r"decay_steps .* got -5"):
        Trapezoid(decay_steps=-5)
    with pytest.raises(ValueError, match=r"reference_steps .* got 0"):
        InverseSquareRoot(reference_steps=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimisers_take_their_settings(optimizer: str) -> None:
    weights = [torch.nn.Parameter(torch.ones(2))]
    built = OPTIMIZERS[optimizer](3e-4, (0.8, 0.95), 1e-6, 0.02).build(weights)
    expected = {"lr": 3e-4, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.02}
    assert {key: built.defaults[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [("rate", -1.0), ("eps", -1e-8), ("weight_decay", -0.1), ("betas", (0.9, 1.0)), ("betas", (-0.1, 0.9))],
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bad_settings_are_refused_by_name(optimizer: str, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{key} must"):
        OPTIMIZERS[optimizer](**{key: value})


@pytest.mark.parametrize(("optimizer", "remaining"), [(Adam, 1.0 - 0.1), (AdamW, 1.0 - 0.1 * 0.5)])
def test_weight_decay_is_a_penalty_in_adam_and_decoupled_in_adamw(optimizer: type[Adam], remaining: float) -> None:
    # Without a gradient, Adam's first step is the rate, whatever the penalty; AdamW subtracts rate * penalty.
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.zeros(1)
    optimizer(rate=0.1, weight_decay=0.5).build([weight]).step()
    assert weight.item() == pytest.approx(remaining, rel=1e-5)


def test_muon_orthogonalises_matrices_and_steps_other_weights_as_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel, bias = torch.randn(32, 16, 3, 3, generator=generator), torch.randn(32, generator=generator)
    weights, alone = [torch.nn.Parameter(part.clone()) for part in (kernel, bias)], torch.nn.Parameter(bias.clone())
    optimizers = [Muon(0.1, (0.8, 0.95)).build(weights), Adam(0.1, (0.8, 0.95)).build([alone])]
    before = kernel
    for _ in range(2):
        before = weights[0].detach().clone()
        for weight in (*weights, alone):
            weight.grad = weight.detach() * 1e-3
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(weights[1], alone)
    values = torch.linalg.svdvals((before - weights[0].detach()).flatten(1) / (0.1 * 0.2 * 144**0.5))
    assert values.min() > 0.6 and values.max() < 1.3


@pytest.mark.parametrize("shape", [(2, 32, 200), (1, 200, 32), (2, 64, 64)])
def test_the_newton_schulz_steps_equal_those_on_the_matrix_itself(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    side = min(shape[1:])
    spread = torch.logspace(0, -3, side)  # singular values of three orders of magnitude
    matrices = torch.randn(shape) * (spread[:, None] if shape[1] == side else spread)
    x = matrices.double() if shape[1] == side else matrices.double().mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    expected = (x if shape[1] == side else x.mT).float()
    torch.testing.assert_close(orthogonalised(matrices), expected, rtol=0, atol=1e-3)


def test_muon_resumes_from_its_state() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(16, 20), torch.randn(4, 16, 20)

    def steps(weights: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, chosen: Tensor) -> None:
        for gradient in chosen:
            weights[0].grad, weights[1].grad = gradient.clone(), gradient[0].clone()
            optimizer.step()

    def fresh(state: Any = None, *values: Tensor) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        weights = [torch.nn.Parameter(value.detach().clone()) for value in values or (start, start[0])]
        optimizer = Muon(0.1).build(weights)
        if state is not None:
            optimizer.load_state_dict(state)
        return weights, optimizer

    whole, first = fresh(), fresh()
    steps(*whole, gradients)
    steps(*first, gradients[:2])
    second = fresh(first[1].state_dict(), *first[0])
    steps(*second, gradients[2:])
    for resumed, uninterrupted in zip(second[0], whole[0], strict=True):
        assert torch.equal(resumed, uninterrupted)
