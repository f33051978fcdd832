"""NCSN++: its options."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sdedit_pl.networks import NCSNpp
from sdedit_pl.networks.layers import SelfAttention

TINY = {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "init_scale": 1.0}


def test_ddpmpp_is_ncsnpp_without_filter_and_pyramids():
    network = NCSNpp(**TINY, label_embedding="positional", fir=False)
    assert "label_embedding.features.frequencies" not in network.state_dict()
    assert not any(name.startswith(("input_pyramid", "output_pyramid")) for name in network.state_dict())


def test_rescaling_changes_the_function_and_not_the_parameters():
    rescaled, plain = (NCSNpp(**TINY, skip_rescale=rescale).eval() for rescale in (True, False))
    plain.load_state_dict(rescaled.state_dict())
    images, label = torch.randn(1, 3, 8, 8), torch.randn(1)
    assert not torch.allclose(plain(images, label), rescaled(images, label), rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_embedding": "sine"}, "label_embedding must be one of 'fourier', 'positional', got 'sine'"),
        ({"block": "resnet"}, "block must be one of 'biggan', 'ddpm'"),
        ({"progressive": "input_skip"}, "progressive must be one of 'none', 'output_skip', 'residual'"),
        ({"progressive_input": "output_skip"}, "progressive_input must be one of 'none', 'input_skip', 'residual'"),
        ({"progressive_combine": "add"}, "progressive_combine must be one of 'sum', 'cat'"),
        ({"progressive_combine": "cat"}, "progressive_input is 'none'; use progressive_combine='sum'"),
        ({"resample_with_convolution": False}, "needs block='ddpm'"),
        ({"channel_multipliers": (1,), "attention_levels": (0,), "progressive": "residual"}, "at least two levels"),
        ({"channel_multipliers": (1,), "attention_levels": (0,), "progressive_input": "residual"}, "two levels"),
        ({"fir_kernel": (1.0,)}, "at least two numbers"),
    ],
)
def test_options_that_are_unknown_or_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NCSNpp(**{**TINY, **options})


@pytest.mark.parametrize("progressive", ["none", "output_skip"])
def test_one_level_is_a_network_too(progressive):
    network = NCSNpp(**{**TINY, "channel_multipliers": (1,), "attention_levels": ()}, progressive=progressive)
    assert network.size_divisor == 1
    assert network(torch.randn(1, 3, 5, 7), torch.randn(1)).shape == (1, 3, 5, 7)


def test_conventions_of_other_programs():
    pyramids = {"progressive": "output_skip", "progressive_input": "input_skip"}
    options = {"label_embedding": "positional", "epsilon": 1e-5, "head_channels": 2, "close_frequencies": False}
    network = NCSNpp(**TINY, **pyramids, **options)
    assert {part.eps for part in network.modules() if isinstance(part, nn.GroupNorm)} == {1e-5}
    assert {part.heads for part in network.modules() if isinstance(part, SelfAttention)} == {8}
    assert network.label_embedding.features.frequencies[-1].item() == pytest.approx(10000 ** -(3 / 4))
    assert {part.eps for part in NCSNpp(**TINY).modules() if isinstance(part, nn.GroupNorm)} == {1e-6}
