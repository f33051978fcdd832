"""Properties of every U-Net: sizes, batches, layouts, precision, patches, checkpointing."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdedit_pl.networks import ADM, DDPM, NETWORKS, NCSNpp
from sdedit_pl.networks.layers import SelfAttention

TINY = {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "init_scale": 1.0}
PYRAMIDS = {"progressive": "output_skip", "progressive_input": "residual"}
CASES = [
    pytest.param(NCSNpp, TINY, id="ncsnpp"),
    pytest.param(NCSNpp, {**TINY, **PYRAMIDS}, id="ncsnpp with pyramids"),
    pytest.param(DDPM, {**TINY, "smallest_group": 4}, id="ddpm"),
    pytest.param(ADM, TINY, id="adm"),
]
COMBINATIONS = {
    # Two heads and blocks: 4 x 4 pixels at the lowest level, so that groups of one channel still have a variance.
    ADM: {
        "blocks_per_level": [2],
        "heads": [2],
        "modulate": [True, False],
        "block": ["biggan", "ddpm"],
        "resample_with_convolution": [True, False],
    },
    DDPM: {
        "blocks_per_level": [2],
        "smallest_group": [4],
        "attend_after": ["block", "level"],
        "resample_with_convolution": [True, False],
        "patch": [1, 2, 4],
    },
    NCSNpp: {
        "block": ["biggan", "ddpm"],
        "resample_with_convolution": [True, False],
        "progressive": ["none", "output_skip", "residual"],
        "progressive_input": ["none", "input_skip", "residual"],
        "progressive_combine": ["sum", "cat"],
        "fir": [True, False],
        "skip_rescale": [True, False],
        "label_embedding": ["fourier", "positional"],
        "patch": [1, 2],
    },
}


def inputs(batch: int = 2, channels: int = 3, height: int = 8, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, channels, height, width, generator=generator)
    return images, torch.randn(batch, generator=generator)


def test_the_table_holds_every_network_and_each_builds_with_its_defaults():
    assert {"ncsnpp": NCSNpp, "ddpm": DDPM, "adm": ADM} == NETWORKS
    with torch.device("meta"):
        assert [network().size_divisor for network in NETWORKS.values()] == [8, 8, 8]


@pytest.mark.parametrize("network", COMBINATIONS)
def test_every_combination_trains_every_parameter(network):
    names = COMBINATIONS[network]
    for values in product(*names.values()):
        options = dict(zip(names, values, strict=True))
        if options.get("block") == "biggan" and not options["resample_with_convolution"]:
            continue
        if options.get("progressive_combine") == "cat" and options["progressive_input"] != "input_skip":
            continue
        built = network(**{**TINY, **options})
        output = built(*inputs())
        assert output.shape == (2, 3, 8, 8)
        output.square().sum().backward()
        # Normalising each channel separately removes a constant that was added to it just before.
        wiped = ["conv_1.bias"] * (network is ADM) + ["label"] * (options.get("modulate") is False)
        untrained = [name for name, weight in built.named_parameters() if not weight.grad.any()]
        assert not [name for name in untrained if not any(part in name for part in wiped)], options


@pytest.mark.parametrize(
    ("network", "options", "up"),
    [(NCSNpp, {}, {2}), (DDPM, {"attend_after": "block"}, {0, 1, 2}), (DDPM, {"attend_after": "level"}, {2})],
)
def test_attention_on_the_way_up_follows_blocks_or_levels(network, options, up):
    shape = {"channels": 8, "channel_multipliers": (1, 1, 2), "blocks_per_level": 2, "attention_levels": (0, 2)}
    modules = network(**shape, **options).named_modules()
    assert {name for name, module in modules if isinstance(module, SelfAttention)} == {
        *(f"down.{level}.blocks.{index}.attention" for level in (0, 2) for index in (0, 1)),
        *(f"up.{level}.blocks.{index}.attention" for level in (0, 2) for index in up),
        "middle.0.attention",
    }


@pytest.mark.parametrize(("network", "options"), CASES)
def test_images_of_a_batch_do_not_see_each_other(network, options):
    network = network(**options).eval()
    images, label = inputs(batch=3)
    together = network(images, label)
    for index in range(3):
        alone = network(images[index : index + 1], label[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("network", "options"), CASES)
def test_the_label_matters_for_its_own_image_only(network, options):
    network = network(**options).eval()
    images, label = inputs()
    changed = network(images, label + torch.tensor([0.0, 1.0]))
    original = network(images, label)
    torch.testing.assert_close(changed[0], original[0])
    assert (changed[1] - original[1]).abs().max() > 1e-2 * original[1].abs().max()


@pytest.mark.parametrize(("network", "options"), CASES)
def test_a_fresh_network_gives_next_to_nothing(network, options):
    images, label = inputs()
    assert network(**{**options, "init_scale": 0.0})(images, label).abs().max() < 1e-3


@pytest.mark.parametrize(("network", "options"), CASES)
@pytest.mark.parametrize(("image_channels", "output_channels"), [(1, None), (4, None), (3, 6), (2, 1)])
def test_any_number_of_channels(network, options, image_channels, output_channels):
    network = network(image_channels=image_channels, output_channels=output_channels, **options)
    images, label = inputs(channels=image_channels)
    assert network(images, label).shape == (2, output_channels or image_channels, 8, 8)


@pytest.mark.parametrize(("network", "options"), CASES)
@pytest.mark.parametrize(("channels", "multipliers"), [(3, (1, 2)), (10, (1, 3)), (7, (2, 1, 1))])
def test_widths_that_groups_do_not_divide(network, options, channels, multipliers):
    network = network(**{**options, "channels": channels, "channel_multipliers": multipliers})
    assert network(*inputs()).isfinite().all()


@pytest.mark.parametrize(("network", "options"), CASES)
@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 20), (12, 4)])
def test_any_size_that_the_divisor_divides(network, options, height, width):
    network = network(**{**options, "channel_multipliers": (1, 1, 2)})
    assert network.size_divisor == 4
    assert network(*inputs(height=height, width=width)).shape == (2, 3, height, width)


@pytest.mark.parametrize("network", [NCSNpp, DDPM])
def test_a_size_that_the_divisor_does_not_divide_is_refused_with_the_nearest(network):
    network = network(**{**TINY, "channel_multipliers": (1, 1, 2), "patch": 2})
    assert network.size_divisor == 8
    with pytest.raises(ValueError, match=r"multiples of 8, got 20 x 16; the nearest sizes are 16 x 16 and 24 x 16"):
        network(*inputs(height=20, width=16))
    with pytest.raises(ValueError, match=r"got 4 x 4; the nearest sizes are 8 x 8 and 8 x 8"):
        network(*inputs(height=4, width=4))


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="takes images of 3 channels, got 1"):
        NCSNpp(**TINY)(*inputs(channels=1))


@pytest.mark.parametrize(("network", "options"), CASES)
@pytest.mark.parametrize("patch", [2, 4])
def test_patches_are_channels_at_a_lower_resolution(network, options, patch):
    """A network with patches equals the one without between space-to-depth and depth-to-space."""
    folded = network(**options, patch=patch).eval()
    plain = network(**options, image_channels=3 * patch**2).eval()
    plain.load_state_dict(folded.state_dict())
    images, label = inputs(height=16, width=16)
    expected = F.pixel_shuffle(plain(F.pixel_unshuffle(images, patch), label), patch)
    torch.testing.assert_close(folded(images, label), expected)
    assert folded.size_divisor == patch * plain.size_divisor


@pytest.mark.parametrize(("network", "options"), CASES)
def test_checkpointing_changes_no_gradient(network, options):
    images, label = inputs()
    gradients = []
    network = network(**options, dropout=0.3)
    for recompute in (False, True):
        network.checkpoint_gradients = recompute
        network.zero_grad()
        torch.manual_seed(1)
        network(images, label).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("network", "options"), CASES)
def test_channels_last_is_kept_and_changes_nothing(network, options):
    network = network(**options).eval()
    images, label = inputs()
    expected = network(images, label)
    actual = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last), label)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("network", "options"), CASES)
def test_work_in_place_changes_neither_result_nor_input(network, options):
    """Activations overwrite their input only without gradients."""
    network = network(**options).eval()
    images, label = inputs()
    before = images.clone()
    expected = network(images, label)
    with torch.inference_mode():
        assert torch.equal(network(images, label), expected)
    assert torch.equal(images, before)


class Devices(TorchDispatchMode):
    """Collects the devices of the tensors of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        self.found |= {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        return result


@pytest.mark.parametrize(("network", "options"), CASES)
def test_a_forward_pass_never_waits_for_its_device(network, options):
    """Fake tensors have no values to read back; a tensor on the CPU would rule out CUDA graphs."""
    devices = Devices()
    with FakeTensorMode():
        with torch.device("cuda"):
            network, inputs = network(**options).eval(), (torch.zeros(2, 3, 8, 8), torch.zeros(2))
        with devices:
            output = network(*inputs)
    assert output.shape == (2, 3, 8, 8) and devices.found == {"cuda"}


@pytest.mark.parametrize(("network", "options"), CASES)
def test_autocast_stays_close(network, options):
    network = network(**options).eval()
    images, label = inputs()
    expected = network(images, label)
    with torch.autocast("cpu", torch.bfloat16):
        actual = network(images, label)
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(("network", "options"), CASES)
def test_double_precision(network, options):
    network = network(**options).double().eval()
    images, label = inputs()
    double = network(images.double(), label.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(network.float()(images, label).double(), double, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("network", [NCSNpp, DDPM])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("channels", 0, "must be positive"),
        ("image_channels", 0, "must be positive"),
        ("blocks_per_level", 0, "must be positive"),
        ("channel_multipliers", (), "one or more channel_multipliers"),
        ("channel_multipliers", (1, 0), "must be positive"),
        ("attention_levels", (0, 2), r"from 0 \(full resolution\) to 1 here, got \[2\]"),
        ("attention_levels", (-1,), r"got \[-1\]"),
        ("patch", 3, "patch must be 1, 2 or 4, got 3"),
        ("dropout", -0.5, "dropout"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(network, option, value, message):
    with pytest.raises(ValueError, match=message):
        network(**{**TINY, option: value})


def test_output_is_of_order_one_after_unit_initialisation():
    """Rescaled sums keep the variance through many blocks."""
    network = NCSNpp(**{**TINY, "channels": 16, "blocks_per_level": 4, "progressive_input": "residual"})
    deviation = network(*inputs(batch=4, height=16, width=16)).std().item()
    assert 0.05 < deviation < 20 and math.isfinite(deviation)
