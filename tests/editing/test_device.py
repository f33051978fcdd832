"""An edit on a GPU that is not there: what is done to it is done to tensors without data, which cannot be read back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.windows import windowed
from sdedit_pl.parameterisations import Epsilon
from sdedit_pl.sde import SDES
from sdedit_pl.solvers import SOLVERS


class FakeGPU(FakeTensorMode):
    """Runs operations on "cuda" with fake tensors, and all others on the CPU."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("pin_memory", None)  # which needs a driver
        on_gpu = any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs)))
        if on_gpu or torch.device(kwargs.get("device") or "cpu").type == "cuda":
            return super().__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **kwargs)


class Blur(nn.Module):
    """A network of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.convolution(x) + label[:, None, None, None]


def test_the_fake_gpu_refuses_to_be_read() -> None:
    with FakeGPU():
        assert torch.ones(3).sum().item() == 3
        with pytest.raises(DataDependentOutputException):
            torch.zeros(3, device="cuda").sum().item()


ANY_SOLVER = [(sde, "sde_dpm_solver_2m") for sde in SDES] + [("vp", solver) for solver in SOLVERS]


@pytest.mark.parametrize("options", [{}, {"repeats": 2, "resample": (2, 2), "lowpass": 4}], ids=["plain", "options"])
@pytest.mark.parametrize(("sde", "solver"), dict.fromkeys(ANY_SOLVER))
def test_an_edit_reads_nothing_back(sde: str, solver: str, options: dict) -> None:
    with FakeGPU():
        denoiser = Denoiser(Blur(), Epsilon(), SDES[sde]()).to("cuda")
        guide, strength = torch.zeros(2, 3, 8, 8, device="cuda"), torch.ones(1, 1, 8, 8, device="cuda")
        edited = SDEdit(t0=0.5, steps=5, solver=SOLVERS[solver](), **options)(
            denoiser, guide, strength=strength, seeds=[1, 2]
        )
    assert isinstance(edited, FakeTensor) and edited.device.type == "cuda" and edited.shape == guide.shape


def test_windows_read_nothing_back() -> None:
    with FakeGPU():
        denoiser = windowed(Denoiser(Blur(), Epsilon(), SDES["vp"]()).to("cuda"), 8, 4)
        edited = SDEdit(steps=3)(denoiser, torch.zeros(1, 3, 12, 20, device="cuda"))
    assert edited.shape == (1, 3, 12, 20) and edited.device.type == "cuda"
