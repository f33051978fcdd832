"""Which weights belong to each part of a network, and that the rest is frozen."""

from __future__ import annotations

import pytest
import torch

from sdedit_pl.networks import DDPM, NCSNpp
from sdedit_pl.training.freezing import PARTS, freeze_all_but

SHAPE = {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "attention_levels": (1,)}


def trained(network: torch.nn.Module) -> set[str]:
    return {name for name, weight in network.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("kind", [NCSNpp, DDPM])
@pytest.mark.parametrize("part", PARTS)
def test_each_network_has_every_part(kind: type[torch.nn.Module], part: str) -> None:
    network = kind(**SHAPE)
    count = freeze_all_but(network, [part])
    names = trained(network)
    sizes = {name: weight.numel() for name, weight in network.named_parameters()}
    assert 0 < count == sum(sizes[name] for name in names) < sum(sizes.values())


def test_parts_hold_the_weights_that_their_names_promise() -> None:
    network = NCSNpp(**SHAPE)
    freeze_all_but(network, ["attention"])
    assert all(".attention." in name or name.startswith("middle.0.attention") for name in trained(network))
    assert any("qkv.weight" in name for name in trained(network))
    freeze_all_but(network, ["biases"])
    assert trained(network) == {name for name, _ in network.named_parameters() if name.endswith("bias")}
    freeze_all_but(network, ["normalisation"])
    assert all("norm" in name for name in trained(network)) and len(trained(network)) % 2 == 0
    freeze_all_but(network, ["label"])
    assert all("label" in name for name in trained(network))


def test_parts_add_up_and_no_part_trains_everything() -> None:
    network = NCSNpp(**SHAPE)
    alone = [freeze_all_but(network, [part]) for part in ("attention", "label")]
    assert freeze_all_but(network, ["attention", "label"]) == sum(alone)
    whole = NCSNpp(**SHAPE)
    assert freeze_all_but(whole, []) == sum(weight.numel() for weight in whole.parameters())


def test_unknown_and_missing_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"attention, biases, .*got 'attenton'"):
        freeze_all_but(NCSNpp(**SHAPE), ["attenton"])
    with pytest.raises(ValueError, match="no attention"):
        freeze_all_but(torch.nn.Linear(2, 2), ["attention"])
