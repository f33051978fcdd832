"""Groups of images that depend on each other, by name and by pasting."""

from __future__ import annotations

from itertools import combinations

import pytest

from sdedit_pl.evaluation.dependent_images import group_numbers, partners, short_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b/c.PNG", "c"), ("shards/val-0.tar:some/key.v2", "key.v2"), ("CIFAR10 image 7", "CIFAR10 image 7")],
)
def test_short_names_have_no_folder_and_suffix(name: str, expected: str) -> None:
    assert short_name(name) == expected


def test_groups_are_numbered_in_order_of_appearance() -> None:
    assert group_numbers(["x", "y", "z"], {"y": "b", "x": "a", "z": "a", "more": "c"}) == [0, 1, 0]
    assert group_numbers(["x", "y"], None) == [0, 1]


@pytest.mark.parametrize("sizes", [[1] * 8, [1] * 9, [4, 1, 3], [2, 5], [3, 1, 1, 7, 2]])
def test_groups_paste_on_their_partners_only(sizes: list[int]) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    found = partners(groups, seed=5)
    assert found == partners(groups, seed=5)
    for number, other in enumerate(found.numbers):
        assert groups[other] != groups[number]
        assert found.groups[other] == found.groups[number]
    for one, two in combinations(range(len(groups)), 2):
        if groups[one] == groups[two]:
            assert found.groups[one] == found.groups[two]
    # the largest possible number of independent groups
    assert len(set(found.groups)) == len(sizes) // 2


def test_another_seed_pairs_others() -> None:
    assert partners(range(20), 0).numbers != partners(range(20), 1).numbers


def test_one_group_cannot_be_pasted_on_another() -> None:
    with pytest.raises(ValueError, match="got 1 group"):
        partners([0, 0, 0], 0)
