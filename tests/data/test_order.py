"""The order of training images depends on the position alone; the union over devices is that order."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from sdedit_pl.data.order import (
    Changes,
    DeviceShare,
    Draw,
    TrainingBatches,
    TrainingOrder,
    ValidationBatches,
    WindowOrder,
)

ORDER = TrainingOrder(count=10, seed=3, changes=Changes(flip=True))


def first_steps(world_size: int, batch_size: int, steps: int, start: int = 0) -> list[list[Draw]]:
    """The draws of all devices in each step."""
    ranks = [
        list(islice(TrainingBatches(DeviceShare(batch_size, rank, world_size, start), ORDER), steps))
        for rank in range(world_size)
    ]
    return [
        [ranks[rank][step][place] for place in range(batch_size) for rank in range(world_size)] for step in range(steps)
    ]


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    epochs = [[draw.index for draw in ORDER.at(np.arange(10 * epoch, 10 * epoch + 10))] for epoch in range(5)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_seeds_give_other_orders_and_flips_leave_the_order_alone() -> None:
    positions = np.arange(30)
    indices = [draw.index for draw in ORDER.at(positions)]
    assert indices != [draw.index for draw in TrainingOrder(10, 4).at(positions)]
    assert indices == [draw.index for draw in TrainingOrder(10, 3).at(positions)]
    assert not any(draw.flipped for draw in TrainingOrder(10, 3).at(positions))


def test_half_of_the_images_are_mirrored_and_not_the_same_ones_each_epoch() -> None:
    draws = ORDER.at(np.arange(2000))
    assert 900 < sum(draw.flipped for draw in draws) < 1100
    assert {draw.flipped for draw in draws if draw.index == 0} == {False, True}


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 6), (2, 3), (3, 2), (6, 1), (1, 12), (1, 30)])
def test_the_union_over_devices_is_one_order_whatever_their_number(world_size: int, batch_size: int) -> None:
    steps = 60 // (world_size * batch_size)
    union = [draw for step in first_steps(world_size, batch_size, steps) for draw in step]
    assert union == ORDER.at(np.arange(60))


def test_a_start_continues_the_order_with_another_number_of_devices() -> None:
    before = first_steps(world_size=2, batch_size=3, steps=4)
    after = first_steps(world_size=3, batch_size=4, steps=2, start=24)
    assert [draw for step in before + after for draw in step] == ORDER.at(np.arange(48))


@pytest.mark.parametrize("count", [1, 3, 7, 8, 97, 98])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_validation_sees_each_image_once_in_equally_many_batches(count: int, world_size: int) -> None:
    batch_size = 4
    ranks = [ValidationBatches(count, DeviceShare(batch_size, rank, world_size)) for rank in range(world_size)]
    batches = [[draw.index for draw in batch] for rank in ranks for batch in rank]
    assert len({len(list(rank)) for rank in ranks}) == 1
    assert max(map(len, batches)) <= batch_size and max(map(len, batches)) - min(map(len, batches)) <= 1
    if count >= world_size:
        assert sorted(index for batch in batches for index in batch) == list(range(count))
    else:
        assert {index for batch in batches for index in batch} == set(range(count))


def test_one_device_validates_in_order() -> None:
    assert [draw for batch in ValidationBatches(10, DeviceShare(4)) for draw in batch] == [
        Draw(i, False) for i in range(10)
    ]


COUNTS = (5, 2, 9, 4, 7)


def window_pass(order: WindowOrder, epoch: int) -> list[list[tuple[int, int]]]:
    """The images of each window of an epoch, as shard and number in the shard."""
    windows = []
    for number, shards in enumerate(order.windows(epoch)):
        images = [(shard, image) for shard in shards for image in range(COUNTS[shard])]
        draws = [order.draw(epoch, number, len(images), place) for place in range(len(images))]
        windows.append([images[draw.index] for draw in draws])
    return windows


@pytest.mark.parametrize("width", [1, 2, 5, 9])
def test_an_epoch_of_windows_has_every_image_of_every_shard_once(width: int) -> None:
    order = WindowOrder(len(COUNTS), width, seed=3)
    epochs = [window_pass(order, epoch) for epoch in range(3)]
    expected = sorted((shard, image) for shard, count in enumerate(COUNTS) for image in range(count))
    for epoch in epochs:
        assert len(epoch) == -(-len(COUNTS) // width)
        assert sorted(image for window in epoch for image in window) == expected
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != window_pass(WindowOrder(len(COUNTS), width, 4), 0)


def test_the_shards_of_the_first_window_are_not_ordered_like_its_images() -> None:
    order = WindowOrder(100, 100, seed=3)
    assert order.windows(0)[0] != [order.draw(0, 0, 100, place).index for place in range(100)]


def test_corners_are_spread_over_the_margin_and_leave_the_rest_alone() -> None:
    plain, cropped = (TrainingOrder(10, 3, Changes(True, margin)).at(np.arange(500)) for margin in (0, 2))
    assert [draw[:2] for draw in plain] == [draw[:2] for draw in cropped]
    assert {draw.corner for draw in plain} == {None}
    assert {draw.corner for draw in cropped} == {(top, left) for top in range(3) for left in range(3)}
