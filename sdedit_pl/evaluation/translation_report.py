"""The measures and the report of `sdedit translate`: faithfulness to guide and pair, realism in the target domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from sdedit_pl.evaluation.measurement import Measures, plain
from sdedit_pl.evaluation.numbered_images import NumberedImages
from sdedit_pl.evaluation.report_document import Figure, ReportDocument, Section
from sdedit_pl.evaluation.report_sections import chosen_rows, comparison_sheet, measures_table
from sdedit_pl.metrics.faithfulness import GuideDistance
from sdedit_pl.metrics.features import FeatureExtractor
from sdedit_pl.metrics.image_distances import root_mean_square, squared_l2
from sdedit_pl.metrics.realism import KernelDistance
from sdedit_pl.typing import Images

TITLES = {
    "guide": "guide",
    "ddib": "DDIB",
    "sdedit": "SDEdit",
    "energy": "SDEdit, energy",
    "two_energies": "SDEdit, two energies",
    "pair": "pair",
}
BATCH = 32


@dataclass(frozen=True)
class Compared:
    """The guides, their pairs and features of target images; `inputs` has the hashes of all but the guides."""

    guides: NumberedImages
    inputs: Mapping[str, str]
    pairs: NumberedImages | None = None
    target: Float[Tensor, "M D"] | None = None
    features: FeatureExtractor | None = None


def ssim(images: Images, others: Images) -> Float[Tensor, "B"]:
    found = structural_similarity_index_measure(images, others, data_range=(-1.0, 1.0), reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(len(images))


def psnr(images: Images, others: Images) -> Float[Tensor, "B"]:
    """In dB."""
    return -20 * root_mean_square(images, others).log10()


DISTANCES = {"squared_l2": squared_l2, "ssim": ssim, "psnr": psnr}


def translation_measures(images: NumberedImages, compared: Compared) -> Measures:
    """Measure -> value, the mean over images, with its standard error; for KID also its interval."""
    others = {"": compared.guides, "pair_": compared.pairs}
    distances = {
        f"{prefix}{name}": (GuideDistance(f"{prefix}{name}", distance), against)
        for prefix, against in others.items()
        for name, distance in DISTANCES.items()
        if against is not None and against is not images and (prefix or name != "psnr")
    }
    kid = None if compared.target is None else KernelDistance(compared.target, subsets=0)
    for numbers in images.batches(BATCH).numbers():
        batch = images.read(numbers)
        for metric, against in distances.values():
            metric.update(batch, against.read(numbers))
        if kid is not None and compared.features is not None:
            kid.update(compared.features(batch))
    found = {key: value for metric, _ in distances.values() for key, value in metric.compute().items()}
    return {key: plain(value) for key, value in (found | ({} if kid is None else kid.compute())).items()}


def translation_report(
    numbers: Mapping[str, Any], made: Mapping[str, NumberedImages], compared: Compared
) -> ReportDocument:
    (source, target), settings, measures = numbers["models"], numbers["settings"], numbers["measures"]
    level = f"noise level {settings['level']}" if settings["level"] else "the highest noise level of both models"
    second = f", the energy on realism weight {settings['realism']:g}" if "two_energies" in made else ""
    kid = (
        f" KID compares with {settings['target']}, by features of {settings['features']['name']}; its interval is from "
        "a bootstrap."
    )
    about = (
        f"{numbers['images']} images of {settings['guide']}, from the domain of {source['file']} (sha256 "
        f"{source['sha256'][:16]}) into that of {target['file']} (sha256 {target['sha256'][:16]}), "
        f"{settings['steps']} steps of each model. DDIB passes to the target model at {level}; the others start from "
        f"t0 = {settings['t0']}. The energy on the low frequencies, those of images {settings['lowpass']} times "
        f"smaller, has weight {settings['lowpass_energy']:g}{second}.{kid if settings['target'] else ''} "
        "± is the standard error over images."
    )
    columns = {"guide": compared.guides, **made, **({} if compared.pairs is None else {"pair": compared.pairs})}
    pictures = comparison_sheet(
        {TITLES[name]: images for name, images in columns.items()}, chosen_rows(numbers["images"])
    )
    figure = Figure("translations", "Evenly spaced guides and their translations.", pictures)
    table = measures_table({TITLES[name]: row for name, row in measures.items()}, "method")
    return ReportDocument(
        f"Translation into the domain of {target['file']}", [Section("Methods", [about], table, [figure])]
    )
