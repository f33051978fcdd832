"""Measurement of an evaluation's images, column by column, from their files.

KID excludes pairs of an edit and an image of the same group, because any edit resembles its guide's original.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate
from torchmetrics import MetricCollection
from tqdm import tqdm

from sdedit_pl.evaluation.evaluation_plan import GUIDE, SAMPLES, EvaluationPlan
from sdedit_pl.evaluation.image_store import FEATURE_CACHE, ImageStore
from sdedit_pl.evaluation.methods import BASELINES
from sdedit_pl.evaluation.numbered_images import NumberedImages
from sdedit_pl.files import whole_file
from sdedit_pl.metrics.faithfulness import guide_distances
from sdedit_pl.metrics.feature_cache import cached_features
from sdedit_pl.metrics.features import FeatureExtractor
from sdedit_pl.metrics.image_distances import nearest_by_distance
from sdedit_pl.metrics.masked_lpips import MaskedLPIPS
from sdedit_pl.metrics.realism import DensityCoverage, FrechetDistance, KernelDistance, PrecisionRecall

COVERAGE_IMAGES = 6
"""Density and coverage need the five nearest neighbours of an image."""
COMPARED_SIDE = 32
"""Height and width in pixels to which images are averaged down to find the nearest."""
LEAST_GROUPS = 3
"""KID's standard error needs estimates that leave one group out."""

Measures = dict[str, float | None]
"""Name -> value, None if it is not finite."""


@dataclass(frozen=True)
class Instruments:
    """The metrics of an evaluation.

    Args:
        lpips: measures the kept pixels of masked tasks; None omits it.
        kid_subset: size of the random subsets that KID is also averaged over, as other programs do; None for none.
    """

    features: FeatureExtractor
    lpips: MaskedLPIPS | None
    device: torch.device
    batch: int = 32
    kid_subset: int | None = None


class Measurement:
    """Measures each column of an evaluation once; `outputs` has for each task the images of other systems."""

    def __init__(
        self,
        plan: EvaluationPlan,
        store: ImageStore,
        groups: list[int],
        outputs: Mapping[str, Mapping[str, NumberedImages]],
        instruments: Instruments,
    ) -> None:
        self.plan = plan
        self.store = store
        self.groups = groups
        self.outputs = outputs
        self.instruments = instruments
        instruments.features.to(instruments.device)
        if instruments.lpips is not None:
            instruments.lpips.to(instruments.device)
        self._realism: dict[bool, MetricCollection] = {}
        self._measured: dict[str, Measures] = {}

    def methods(self, task: str) -> dict[str, NumberedImages]:
        own = {method: self.store.pictures(f"{task}/{method}") for method in self.plan.tables[task]}
        return {**own, **self.outputs.get(task, {})}

    def measure(self) -> dict[str, Any]:
        for task, methods in self.plan.tables.items():
            for method in methods:
                if method in BASELINES and BASELINES[method].nearest:
                    guides, chosen = (self.store.pictures(f"{task}/{name}") for name in (GUIDE, method))
                    choose_nearest(guides, self.store.pictures(SAMPLES), chosen, self.instruments.batch)
        columns = [
            (f"{task}/{method}", pictures)
            for task in self.plan.tables
            for method, pictures in self.methods(task).items()
        ]
        folders = [folder for variants in self.plan.ablations.values() for _, folder in variants]
        sources = {folder.partition("/")[0] for folder in folders}
        columns += [(folder, self.store.pictures(folder)) for folder in folders]
        columns += [(f"{source}/{GUIDE}", self.store.pictures(f"{source}/{GUIDE}")) for source in sorted(sources)]
        unique = dict(columns)
        with tqdm(total=len(unique) * self.store.count, desc="measuring", unit="image", disable=None) as progress:
            for folder, pictures in unique.items():
                self._measured[folder] = self._measures(folder.partition("/")[0], pictures, progress)
        return {
            "tasks": {
                task: {method: self._measured[f"{task}/{method}"] for method in self.methods(task)}
                for task in self.plan.tables
            },
            "ablations": {
                name: [
                    {"model": variant.model, "label": variant.label, "images": folder, **self._measured[folder]}
                    for variant, folder in variants
                ]
                for name, variants in self.plan.ablations.items()
            },
            "guides": {source: self._measured[f"{source}/{GUIDE}"] for source in sorted(sources)},
        }

    def _measures(self, source: str, pictures: NumberedImages, progress: tqdm) -> Measures:
        task, instruments = self.plan.inputs[source], self.instruments
        groups = self._groups(task.pastes)
        realism = self._realism_of(task.pastes)
        faithfulness = guide_distances(groups)
        lpips = instruments.lpips if task.masked else None
        if lpips is not None:
            lpips.reset()
            lpips.groups = groups
        for numbers in pictures.batches(instruments.batch).numbers():
            images, inputs, places = pictures.read(numbers), self.store.inputs(source, task, numbers), list(numbers)
            numbered = torch.tensor(places)
            faithfulness.update(images, inputs.guide, numbered)
            images = images.to(instruments.device)
            if lpips is not None and inputs.mask is not None:
                guide, mask = (part.to(instruments.device) for part in (inputs.guide, inputs.mask))
                lpips.update(images, guide, mask, numbered)
            realism.update(instruments.features(images).cpu(), numbered)
            progress.update(len(places))
        found = {**faithfulness.compute(), **({} if lpips is None else lpips.compute()), **realism.compute()}
        return {name: plain(value) for name, value in found.items()}

    def _groups(self, pastes: bool) -> Tensor:
        """The group of each image; with `pastes`, groups that were pasted on each other count as one."""
        return torch.tensor(self.store.partners.groups if pastes else self.groups)

    def _realism_of(self, pastes: bool) -> MetricCollection:
        if pastes not in self._realism:
            instruments = self.instruments
            originals = self.store.originals.batches(instruments.batch)
            reference = cached_features(instruments.features, originals, self.store.out / FEATURE_CACHE)
            groups = self._groups(pastes)
            subsets = {"subsets": 0} if instruments.kid_subset is None else {"subset_size": instruments.kid_subset}
            self._realism[pastes] = MetricCollection(
                {
                    "kid": KernelDistance(reference, groups, groups, **subsets),
                    "fid": FrechetDistance(reference),
                    "precision_recall": PrecisionRecall(reference),
                    "density_coverage": DensityCoverage(reference),
                }
            )
        self._realism[pastes].reset()
        return self._realism[pastes]


def choose_nearest(guides: NumberedImages, samples: NumberedImages, chosen: NumberedImages, batch: int) -> None:
    """Copies each guide's nearest sample, by squared distance at `COMPARED_SIDE`, to its missing file in `chosen`."""
    missing = chosen.missing()
    if not missing:
        return
    small_samples = torch.cat([_small(images) for images in samples.batches(batch)])
    for start in range(0, len(missing), batch):
        numbers = missing[start : start + batch]
        nearest = nearest_by_distance(_small(guides.read(numbers)), small_samples).index
        for number, index in zip(numbers, nearest, strict=True):
            with whole_file(chosen.file(number)) as unfinished:
                unfinished.write_bytes(samples.file(int(index)).read_bytes())


def _small(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
    side = min(COMPARED_SIDE, images.shape[-1])
    return interpolate(images, size=(side, side), mode="area").flatten(1)


def plain(value: Tensor) -> float | None:
    """The value as JSON can hold it: None if it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None
