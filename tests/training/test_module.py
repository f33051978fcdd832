"""A training step: it learns, its random numbers are reproducible, and it never waits for the accelerator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny import tiny_config, two_colour_images
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_module
from sdedit_pl.losses import WEIGHTINGS
from sdedit_pl.parameterisations import PARAMETERISATIONS
from sdedit_pl.sde import SDES, _kept_beta_table
from sdedit_pl.training.module import ScoreModule

TRAINABLE = [name for name, kind in PARAMETERISATIONS.items() if not kind().learned_variance]


def tiny_module(*arguments: str, rank: int = 0) -> ScoreModule:
    """A module without a training loop, on the device `rank`."""
    config = tiny_config("data.path=unused", *arguments)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        module = build_module(config, build_denoiser(config.model))
    trainer: Any = SimpleNamespace(global_rank=rank, max_steps=100, precision="32-true")
    module._trainer = trainer
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign]
    return module


def draws(module: ScoreModule, batches: int = 3) -> list[Tensor]:
    """The random numbers of some training steps: times and noise."""
    drawn: list[Tensor] = []

    def record(denoiser: Any, images: Tensor, t: Tensor, noise: Tensor, *of_batch: Tensor | None) -> Tensor:
        drawn.append(torch.cat([t, noise.flatten()]))
        return torch.zeros(len(images))

    module.losses = record  # type: ignore[method-assign]
    for batch in range(batches):
        torch.rand(batch)  # other draws from the global stream change nothing
        module.training_step(torch.zeros(4, 3, 8, 8), batch)
    return drawn


def test_the_loss_falls_on_a_domain_of_four_images() -> None:
    module = tiny_module("data.size=16", "network.patch=2", "network.channels=16", "optimizer.rate=0.01")
    images, optimizer = two_colour_images(16, 16), module.optimizer.build(list(module.parameters()))

    def mean_loss() -> float:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            t = module.times.times(module.denoiser.sde, (torch.arange(16) + 0.5) / 16)
            return module.eval().losses(module.denoiser, images, t, noise).mean().item()

    before = mean_loss()
    module.train()
    for step in range(60):
        module.training_step(two_colour_images(16, 16, seed=step), step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert mean_loss() < 0.6 * before


@pytest.mark.parametrize("parameterisation", TRAINABLE)
@pytest.mark.parametrize("sde", SDES)
def test_every_combination_takes_a_step(sde: str, parameterisation: str) -> None:
    # Each SDE meets each parameterisation and each weighting.
    turn = list(SDES).index(sde) + TRAINABLE.index(parameterisation)
    weighting = list(WEIGHTINGS)[turn % len(WEIGHTINGS)]
    module = tiny_module(
        f"sde={sde}", f"parameterisation={parameterisation}", f"weighting={weighting}", "times=uniform"
    )
    weights = list(module.parameters())
    before = [weight.detach().clone() for weight in weights]
    module.training_step(two_colour_images(4, 8), 0).backward()
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    module.optimizer.build(weights).step()
    assert any(not torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_random_numbers_are_a_function_of_the_seed_the_rank_and_the_batch() -> None:
    first = draws(tiny_module())
    assert all(torch.equal(a, b) for a, b in zip(first, draws(tiny_module()), strict=True))
    others = [*first, *draws(tiny_module(rank=1)), *draws(tiny_module("seed=1"))]
    assert len({tensor[0].item() for tensor in others}) == len(others)
    noise = torch.stack(others)[:, 4:]
    assert (torch.corrcoef(noise) - torch.eye(len(others))).abs().max() < 0.2
    assert noise.mean().abs() < 0.1 and (noise.std() - 1).abs() < 0.1


def test_a_training_step_does_not_move_the_global_stream() -> None:
    module = tiny_module("network.dropout=0.5", "augment.probability=0.5")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    module.training_step(two_colour_images(4, 8), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_run_draws_the_numbers_of_an_uninterrupted_one() -> None:
    whole = tiny_module()
    expected = draws(whole, 5)
    checkpoint: dict[str, Any] = {}
    stopped = tiny_module()
    draws(stopped, 3)
    stopped.on_save_checkpoint(checkpoint)
    resumed = tiny_module()
    resumed.on_load_checkpoint(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(draws(resumed, 2), expected[3:], strict=True))


def test_dropout_is_replayed_and_differs_between_batches_and_ranks() -> None:
    images = two_colour_images(4, 8)

    def masks(rank: int) -> list[Tensor]:
        module = tiny_module("network.dropout=0.5", rank=rank)
        kept: list[Tensor] = []
        dropped = [part for part in module.modules() if isinstance(part, torch.nn.Dropout)]
        dropped[0].register_forward_hook(lambda part, inputs, output: kept.append(output == 0))
        for batch in range(2):
            module.training_step(images, batch)
        return kept

    first, second = masks(0)
    assert 0.4 < first.float().mean() < 0.6 and not torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(masks(0), (first, second), strict=True))
    assert not torch.equal(masks(1)[0], first)


@pytest.mark.parametrize("sizes", [(6,), (4, 2), (1, 2, 3)])
def test_the_validation_loss_does_not_depend_on_the_batches(sizes: tuple[int, ...]) -> None:
    images, logged = two_colour_images(6, 8), []
    module = tiny_module("seed=3").eval()
    module.averages = {7: module.denoiser}
    names = ["val/loss", "val/loss/sigma_0.05-0.2", "val/loss/sigma_0.2-0.8", "val/loss/sigma_0.8-3.2"]
    names += ["val/loss/sigma_mean", "val/loss/sigma_mean/average_7"]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    indices = [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    module.trainer.datamodule = SimpleNamespace(val_indices=lambda batch: indices[batch])  # type: ignore[attr-defined]
    module.log = lambda name, value, batch_size, **options: logged.append((name, value * batch_size))  # type: ignore

    def sums() -> dict[str, float]:
        """The sum of each loss over the images, batch by batch."""
        logged.clear()
        for batch, chosen in enumerate(indices):
            module.validation_step(images[list(chosen)], batch)
        return {name: sum(value for found, value in logged if found == name).item() for name in names}

    with torch.no_grad():
        apart = sums()
        assert sums() == apart and {name for name, _ in logged} == set(names)  # the same noise every time
        indices = [range(6)]
        assert sums() == pytest.approx(apart, rel=1e-5)
    buckets = [apart[name] for name in names[1:4]]
    assert apart["val/loss/sigma_mean"] == pytest.approx(sum(buckets) / 3) and len(set(buckets)) == 3
    assert apart["val/loss/sigma_mean/average_7"] == apart["val/loss/sigma_mean"]


def test_validation_noise_is_not_training_noise() -> None:
    module = tiny_module()
    training = torch.cat([draw[:1] for draw in draws(module, 50)])
    module.trainer.datamodule = SimpleNamespace(val_indices=lambda batch: range(50))  # type: ignore[attr-defined]
    recorded: list[Tensor] = []
    module.sigma_edges = ()
    module.losses = lambda denoiser, images, t, noise, *of_batch: recorded.append(noise) or t  # type: ignore[method-assign]
    module.validation_step(torch.zeros(50, 3, 8, 8), 0)
    assert len(torch.cat([training, recorded[0][:, 0, 0, 0]]).unique()) == 100


def test_the_rate_is_the_schedules_at_every_step() -> None:
    module = tiny_module("optimizer.rate=0.01", "schedule=cosine", "schedule.warmup_steps=5")
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    for step in range(10):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * module.schedule.factor(step, 100))
        optimizer.step()
        scheduler.step()


def test_only_weights_that_need_a_gradient_are_trained() -> None:
    module = tiny_module()
    parameters = list(module.parameters())
    parameters[0].requires_grad_(False)
    trained = module.configure_optimizers()["optimizer"].param_groups[0]["params"]
    assert [id(weight) for weight in trained] == [id(weight) for weight in parameters if weight.requires_grad]


class NoTransfers(TorchDispatchMode):
    """Raises where a tensor goes from one device to another, or a number from a device to Python."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type != "cpu":
            raise AssertionError("a number was read from the device")
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[0] if func is torch.ops.aten._to_copy.default else args[1]
            if source.device != result.device:
                raise AssertionError(f"a tensor was copied from {source.device} to {result.device}")
        return result


SDES_AND_TIMES = [("vp", "log_normal"), ("subvp", "log_uniform"), ("ve", "uniform"), ("ddpm", "table")]


def attentive(sde: str, times: str) -> tuple[str, ...]:
    """The settings of a network with two levels and attention."""
    return (f"sde={sde}", f"times={times}", "network.channel_multipliers=[1,2]", "network.attention_levels=[1]")


@pytest.fixture
def fresh_tables() -> Iterator[None]:
    """Keeps real tensors in the SDEs' caches apart from fake ones."""
    _kept_beta_table.cache_clear()
    yield
    _kept_beta_table.cache_clear()


@pytest.mark.usefixtures("fresh_tables")
@pytest.mark.parametrize(("sde", "times"), SDES_AND_TIMES)
def test_a_training_step_reads_nothing_from_the_device(sde: str, times: str) -> None:
    # A fake tensor has no values, so that whatever waits for one raises.
    with FakeTensorMode():
        module = tiny_module(*attentive(sde, times))
        optimizer = module.optimizer.build(list(module.parameters()))
        for batch in range(2):
            module.training_step(torch.zeros(4, 3, 8, 8), batch).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
            module.training_step(torch.zeros(4, 3, 8, 8), 0).item()


@pytest.mark.usefixtures("fresh_tables")
@pytest.mark.parametrize(("sde", "times"), SDES_AND_TIMES)
def test_a_forward_pass_copies_nothing_between_devices(sde: str, times: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fake tensors can be on a GPU that does not exist; mixing devices raises, and so does copying between them.
    monkeypatch.setattr("torch.random.fork_rng", lambda *arguments, **options: nullcontext())
    with FakeTensorMode():
        with torch.device("cuda"):
            module = tiny_module(*attentive(sde, times))
            batch = torch.zeros(4, 3, 8, 8)
        module.training_step(batch, 0)  # tables are copied once
        with NoTransfers():
            assert module.training_step(batch, 0).device.type == "cuda"
            with pytest.raises(AssertionError, match="copied from cuda"):
                batch.cpu()
