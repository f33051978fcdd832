"""Metrics over the images that fall to one of several processes; run by tests/metrics/test_image_metric.py.

    python tests/support/gathering_driver.py RANK FOLDER

Joins the other of two processes through a file in FOLDER, and writes FOLDER/RANK.pt: what `measured` returns for each
of `SHARES`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torchmetrics import MetricCollection

from sdedit_pl.metrics.faithfulness import guide_distances
from sdedit_pl.metrics.realism import DensityCoverage, FrechetDistance, KernelDistance, PrecisionRecall

COUNT, FEATURES = 20, 6

SHARES = {
    "one has a few, in another order, and one of the other's": ([[7, 5, 3], [1, 0]], [list(range(2, 20)), [5]]),
    "one has none": ([], [list(range(20))]),
}
"""The batches of images of each of two processes."""


def measured(batches: list[list[int]]) -> dict[str, torch.Tensor]:
    """Every metric of the images with these numbers."""
    generator = torch.Generator().manual_seed(0)
    images, guides = torch.rand(2, COUNT, 3, 8, 8, generator=generator) * 2 - 1
    features, reference = torch.randn(2, COUNT, FEATURES, generator=generator)
    groups = torch.arange(COUNT) // 2
    faithfulness = guide_distances()
    realism = MetricCollection(
        [
            KernelDistance(reference, groups, groups, subsets=10, subset_size=12),
            FrechetDistance(reference),
            PrecisionRecall(reference),
            DensityCoverage(reference),
        ]
    )
    for batch in map(torch.tensor, batches):
        faithfulness.update(images[batch], guides[batch], numbers=batch)
        realism.update(features[batch] + 0.3, batch)
    return faithfulness.compute() | realism.compute()


def main(rank: int, folder: Path) -> None:
    """Measures as one of two processes."""
    torch.distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    torch.save({name: measured(shares[rank]) for name, shares in SHARES.items()}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
