"""Guidance: closed forms for Gaussian data, counted evaluations, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sdedit_pl import SDEdit
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.guidance import guided
from sdedit_pl.editing.windows import windowed
from sdedit_pl.parameterisations import EDM, Epsilon, EpsilonAndVariance
from sdedit_pl.sde import SDES, VESDE, VPSDE
from sdedit_pl.solvers import EDMHeun, PredictorCorrector, ProbabilityFlowHeun, Solver

W = 2.5


class GaussianNetwork(nn.Module):
    """F of the exact denoiser of pixels from N(0, deviation^2), under EDM's preconditioning; counts its images."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = nn.Parameter(torch.tensor(deviation, dtype=torch.float64))
        self.images = 0

    def forward(self, scaled: Tensor, label: Tensor) -> Tensor:
        self.images += len(scaled)
        level = (4 * label)[:, None, None, None].exp()
        total = level.square() + 0.25
        gain = self.deviation**2 / (self.deviation**2 + level.square())
        return (gain - 0.25 / total) * total.sqrt() * scaled / (0.5 * level / total.sqrt())


@pytest.fixture
def pair() -> tuple[GaussianNetwork, GaussianNetwork]:
    return GaussianNetwork(0.4), GaussianNetwork(0.7)


@pytest.mark.parametrize("name", SDES)
def test_guided_estimates_of_gaussians_in_closed_form(name: str, pair: tuple[GaussianNetwork, GaussianNetwork]) -> None:
    sde = SDES[name]()
    strong, weak = (Denoiser(network, EDM(), sde) for network in pair)
    t = sde.time_at_noise_level(torch.tensor([0.1, 0.6, 3.0], dtype=torch.float64))
    x_t = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = (part(t)[:, None, None, None] for part in (sde.alpha, sde.sigma))
    scores = [-x_t / ((alpha * network.deviation).square() + sigma.square()) for network in pair]
    expected = W * scores[0] - (W - 1) * scores[1]
    found = guided(strong, weak, W)
    torch.testing.assert_close(found.score(x_t, t), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found(x_t, t), (x_t + sigma.square() * expected) / alpha, rtol=1e-6, atol=1e-9)
    limited = guided(strong, weak, W, (0.3, 1.0)).score(x_t, t)
    torch.testing.assert_close(limited[1], expected[1], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(limited[[0, 2]], strong.score(x_t, t)[[0, 2]], rtol=1e-9, atol=1e-12)


def test_without_guidance_the_model_is_the_same(pair: tuple[GaussianNetwork, GaussianNetwork]) -> None:
    strong, weak = (Denoiser(network, EDM(), VPSDE()) for network in pair)
    assert guided(strong, weak, 1.0) is strong and strong.evaluations == 1


@pytest.mark.parametrize("solver", [ProbabilityFlowHeun(), EDMHeun(), PredictorCorrector(corrector_steps=2)])
def test_the_last_step_counts_as_one_evaluation(solver: Solver, pair: tuple[GaussianNetwork, GaussianNetwork]) -> None:
    denoiser = Denoiser(pair[0], EDM(), VESDE())
    edit = SDEdit(t0="sigma:4", steps=5, repeats=2, solver=solver)
    edit(denoiser, torch.zeros(1, 1, 4, 4))
    assert edit.evaluations(denoiser) == pair[0].images


@pytest.mark.parametrize(("levels", "steps_guided"), [(None, 10), ((0.5, 2.0), 2), ((0.0, 0.01), 0)])
def test_both_networks_are_evaluated_only_within_the_range(
    levels: tuple[float, float] | None, steps_guided: int, pair: tuple[GaussianNetwork, GaussianNetwork]
) -> None:
    strong, weak = (Denoiser(network, EDM(), VESDE()) for network in pair)
    both = guided(strong, weak, W, levels)
    edit, guide = SDEdit(t0="sigma:4", steps=10), torch.zeros(2, 1, 4, 4)
    edit(both, guide)
    reached = strong.sde.noise_level(edit.times(strong.sde)[:-1])
    inside = reached == reached if levels is None else (levels[0] <= reached) & (reached <= levels[1])
    assert pair[1].images == 2 * int(inside.sum()) == 2 * steps_guided
    assert (pair[0].images, both.evaluations) == (20, 2)
    assert edit.evaluations(both) == edit.evaluations(windowed(both, 4, 0)) == 10 + steps_guided
    windowed(both, 4, 0)(
        torch.zeros(1, 1, 4, 8, dtype=torch.float64), strong.sde.time_at_noise_level(torch.tensor(5.0))
    )
    assert (pair[0].images, pair[1].images) == (22, 2 * steps_guided + 2 * (levels is None))


def test_compiled_networks_guide_without_a_look_at_the_labels(pair: tuple[GaussianNetwork, GaussianNetwork]) -> None:
    both = guided(*(Denoiser(network, EDM(), VESDE()) for network in pair), W, (0.5, 2.0))
    both.network.compile(backend="eager", fullgraph=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        both(torch.zeros(2, 1, 4, 4), both.sde.time_at_noise_level(torch.ones(2)))
    assert all(network._compiled_call_impl is not None for network in pair)


def test_the_variance_stays_that_of_the_model() -> None:
    class Outputs(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(value))

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return self.value.expand(len(x), 2, 4, 4)

    strong, weak = (Denoiser(Outputs(value), EpsilonAndVariance(), VPSDE()) for value in (0.5, -0.5))
    x_t, t = torch.zeros(1, 1, 4, 4), torch.tensor([0.5])
    estimates = guided(strong, weak, W).estimates(x_t, t)
    assert estimates.variance_weight is not None and estimates.variance_weight.unique().item() == 0.75
    noise = W * 0.5 + (W - 1) * 0.5
    torch.testing.assert_close(estimates.score, (x_t - noise) / VPSDE().sigma(t))


@pytest.mark.parametrize(
    ("weak", "arguments", "message"),
    [
        (Denoiser(nn.Identity(), Epsilon(), VESDE()), (W,), "has a different SDE"),
        (Denoiser(nn.Identity(), EDM(), VPSDE()), (W,), "a different parameterisation"),
        (Denoiser(nn.Identity(), Epsilon(), VPSDE()), (-1.0,), "guidance must be at least 0, got -1.0"),
        (
            Denoiser(nn.Identity(), Epsilon(), VPSDE()),
            (W, (2.0, 1.0)),
            "0 <= lowest < highest, got 2 to 1",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(weak: Denoiser, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guided(Denoiser(nn.Identity(), Epsilon(), VPSDE()), weak, *arguments)
