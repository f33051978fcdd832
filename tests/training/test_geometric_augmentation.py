"""Geometric augmentation: where points move, how details are filtered, the labels and the random distribution."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from sdedit_pl.training.geometric_augmentation import LABELS, Transformation

SIZE = 64


def transformation(**parameters: float) -> Transformation:
    """A transformation of one image; other parameters are zero."""
    return Transformation(*(torch.tensor([float(parameters.get(name, 0))]) for name in Transformation._fields))


def bump(x: float, y: float, deviation: float = 0.1) -> Tensor:
    """A soft spot at (x, y) on [-1, 1], x to the right and y down, in an image in [-1, 1]."""
    places = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    distance = (places - x).square() + (places[:, None] - y).square()
    return (2 * (-distance / (2 * deviation**2)).exp() - 1).expand(1, 3, -1, -1).clone()


MOVES = [
    ({"mirrored": 1}, (-0.3, 0.1)),
    ({"upside_down": 1}, (0.3, -0.1)),
    ({"scale": 1}, (0.3 * 2**0.2, 0.1 * 2**0.2)),
    ({"scale": -2}, (0.3 * 2**-0.4, 0.1 * 2**-0.4)),
    ({"angle": math.pi / 2}, (-0.1, 0.3)),  # clockwise, because y points down
    ({"stretch": 1}, (0.3 * 2**0.2, 0.1 * 2**-0.2)),
    ({"stretch": 1, "axis": math.pi / 2}, (0.3 * 2**-0.2, 0.1 * 2**0.2)),
    ({"shift_x": 1}, (0.3 + 0.25, 0.1)),  # an eighth of the width
    ({"shift_y": -1}, (0.3, 0.1 - 0.25)),
    ({"mirrored": 1, "angle": math.pi / 2, "shift_x": 1}, (-0.1 + 0.25, -0.3)),  # in this order
]


@pytest.mark.parametrize(("parameters", "place"), MOVES)
def test_points_move_as_documented(parameters: dict[str, float], place: tuple[float, float]) -> None:
    moved = (transformation(**parameters)(bump(0.3, 0.1, 0.06))[0, 0] + 1).clamp(min=0)
    places = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    found = ((moved * places).sum() / moved.sum(), (moved * places[:, None]).sum() / moved.sum())
    assert torch.stack(found).tolist() == pytest.approx(place, abs=0.004)


def test_a_rotated_image_is_the_image_of_the_rotated_scene() -> None:
    rotated = transformation(angle=0.7)(bump(0.3, 0.1, 0.15))
    x, y = 0.3 * math.cos(0.7) - 0.1 * math.sin(0.7), 0.3 * math.sin(0.7) + 0.1 * math.cos(0.7)
    inside = (slice(None), slice(None), slice(8, 56), slice(8, 56))  # the corners show reflections
    assert (rotated - bump(x, y, 0.15))[inside].abs().max() < 0.01


def test_the_inverse_restores_a_smooth_image() -> None:
    image = bump(0.2, -0.2, 0.12)
    back = transformation(angle=-0.4, scale=-0.5)(transformation(angle=0.4, scale=0.5)(image))
    inside = (slice(None), slice(None), slice(16, 48), slice(16, 48))
    assert (back - image)[inside].abs().max() < 0.02


def test_shrinking_does_not_alias() -> None:
    # Stripes of 0.45 cycles per pixel, shrunk by 2^-0.6, have 0.68, which would alias to 0.32.
    stripes = (2 * math.pi * 0.45 * torch.arange(SIZE)).sin().expand(1, 3, SIZE, -1).contiguous()
    shrunk = transformation(scale=-3)(stripes)[..., 12:52, 12:52]
    assert stripes.square().mean() > 0.45 and shrunk.square().mean() < 0.02


def test_the_border_is_filled_by_reflection() -> None:
    light = torch.full((1, 3, SIZE, SIZE), 0.7)
    for parameters in ({"angle": 0.6}, {"scale": -2}, {"shift_x": 2, "shift_y": 1}):
        torch.testing.assert_close(transformation(**parameters)(light), light, rtol=0, atol=1e-3)


def test_images_that_are_not_resampled_keep_their_values() -> None:
    images = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    zero, flips = torch.zeros(4), torch.tensor([0.0, 1.0, 0.0, 1.0])
    nothing = zero, zero, zero, torch.full((4,), 1.3), zero, zero  # an axis without a stretch
    untouched = Transformation(flips, flips.flip(0), *nothing)(images)
    expected = torch.stack([images[0].flip(1), images[1].flip(2), images[2].flip(1), images[3].flip(2)])
    assert torch.equal(untouched, expected)


def test_labels_encode_the_parameters_and_are_zero_for_the_identity() -> None:
    assert torch.equal(transformation().labels, torch.zeros(1, LABELS))
    assert torch.equal(transformation(axis=1.0).labels, torch.zeros(1, LABELS))
    done = transformation(mirrored=1, scale=0.5, angle=1.0, stretch=2.0, axis=0.3, shift_x=-1.0, shift_y=0.2)
    expected = [1, 0, 0.5, math.cos(1) - 1, math.sin(1), 2 * math.cos(0.3), 2 * math.sin(0.3), -1, 0.2]
    assert done.labels[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_each_transformation_has_its_probability_and_its_distribution() -> None:
    torch.manual_seed(0)
    drawn = Transformation.random(40_000, 0.3, torch.zeros(1))
    shares = {name: values.ne(0).float().mean().item() for name, values in drawn._asdict().items()}
    assert shares.pop("mirrored") == pytest.approx(0.5, abs=0.01)
    assert shares.pop("upside_down") == pytest.approx(0.15, abs=0.01)
    assert shares.pop("axis") == pytest.approx(0.5, abs=0.01)
    assert all(share == pytest.approx(0.3, abs=0.01) for share in shares.values())
    for name in ("scale", "stretch", "shift_x", "shift_y"):
        values = getattr(drawn, name)
        assert values[values != 0].std().item() == pytest.approx(1, abs=0.03)
    assert drawn.angle[drawn.angle != 0].std().item() == pytest.approx(math.pi / math.sqrt(3), rel=0.03)
    made = torch.stack([drawn.scale, drawn.angle, drawn.stretch, drawn.shift_x]).ne(0).float()
    assert (torch.corrcoef(made) - torch.eye(4)).abs().max() < 0.02
    assert torch.equal(drawn.shift_x != 0, drawn.shift_y != 0)


def test_probability_zero_only_mirrors_and_one_does_everything() -> None:
    torch.manual_seed(0)
    never, always = (Transformation.random(1000, probability, torch.zeros(1)) for probability in (0.0, 1.0))
    assert never._resamples().max() == 0 and always._resamples().min() > 0


def test_autocast_changes_nothing() -> None:
    image = bump(0.3, 0.1)
    done = transformation(angle=0.5, scale=1, stretch=1, axis=0.4, shift_x=0.5)
    plain = done(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(done(image), plain)


def test_it_reads_nothing_from_the_accelerator() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        images = torch.zeros(4, 3, 32, 32)
        done = Transformation.random(4, 0.5, images)
        assert done(images).device.type == done.labels.device.type == "cuda"


def test_a_rectangle_is_rotated_in_pixels() -> None:
    image = -torch.ones(1, 1, 32, 64)
    image[..., 14:18, 42:46] = 1  # 12 px to the right of the centre
    turned = transformation(angle=math.pi / 2)(image)
    assert turned[..., 27:29, 31:33].min() > 0.9


def test_only_stated_symmetries_are_drawn() -> None:
    like = torch.zeros(64, 1, 8, 8)
    drawn = Transformation.random(64, 1.0, like, ("mirror", "shift"))
    used = {name for name in Transformation._fields if getattr(drawn, name).any()}
    assert used == {"mirrored", "shift_x", "shift_y"}
