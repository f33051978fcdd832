"""The measures and the report of `sdedit translate`: faithful to the guide and its pair, realistic in the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from sdedit_pl.evaluation.report_document import Figure, ReportDocument, Section, Table
from sdedit_pl.evaluation.report_sections import CELL, chosen_rows
from sdedit_pl.metrics.image_distances import root_mean_square, squared_l2
from sdedit_pl.metrics.kid import kernel_distance
from sdedit_pl.picture_grid import picture_grid, to_picture
from sdedit_pl.typing import Images

TITLES = {"guide": "guide", "ddib": "DDIB", "sdedit": "SDEdit", "energy": "SDEdit, energy", "pair": "pair"}
COLUMNS = {
    "l2": "L2 to guide",
    "ssim": "SSIM to guide",
    "pair_l2": "L2 to pair",
    "pair_ssim": "SSIM to pair",
    "pair_psnr": "PSNR to pair",
    "kid": "KID ↓",
    "kid_error": "±",
}
LEAST_IMAGES = 3
"""KID's standard error needs estimates that leave one image out."""


@dataclass(frozen=True)
class Compared:
    """The guides, their pairs, and features of images of the target domain, for measuring translations."""

    guides: Images
    pairs: Images | None = None
    target: Float[Tensor, "M D"] | None = None
    features: Callable[[Images], Float[Tensor, "N D"]] | None = None


def measures_of(methods: Mapping[str, Images], compared: Compared) -> dict[str, dict[str, float]]:
    """Method -> measure -> value, the mean over images."""
    found = {}
    for name, images in methods.items():
        row = {}
        for prefix, others in (("", compared.guides), ("pair_", compared.pairs)):
            if others is not None and others is not images:
                row[f"{prefix}l2"] = squared_l2(images, others).mean().item()
                ssim = structural_similarity_index_measure(images, others, data_range=(-1.0, 1.0))
                row[f"{prefix}ssim"] = float(ssim)  # pyright: ignore[reportArgumentType]
                if prefix and not torch.equal(images, others):
                    row["pair_psnr"] = -20 * root_mean_square(images, others).log10().mean().item()
        if compared.target is not None and compared.features is not None:
            kid = kernel_distance(compared.features(images), compared.target)
            row |= {"kid": kid.value, "kid_error": kid.error}
        found[name] = row
    return found


def report(numbers: Mapping[str, Any], images: Mapping[str, Images], compared: Compared) -> ReportDocument:
    """The report of a translation; `numbers` are the contents of its metrics.json."""
    (source, target), settings, measures = numbers["models"], numbers["settings"], numbers["measures"]
    level = f"noise level {settings['level']}" if settings["level"] else "the highest noise level that both know"
    about = (
        f"{numbers['images']} images of {settings['guide']}, from the domain of {source['file']} (sha256 "
        f"{source['sha256'][:16]}) into that of {target['file']} (sha256 {target['sha256'][:16]}), "
        f"{settings['steps']} steps of each model. DDIB hands over at "
        f"{level}; the others start from t0 = {settings['t0']}; the energy "
        f"weighs frequencies of images {settings['lowpass']} times smaller with {settings['lowpass_energy']:g}. KID "
        f"compares with {settings['target'] or 'nothing'}, on the features {settings['features']['name']}; ± is its "
        "standard error."
    )
    shown = {key: title for key, title in COLUMNS.items() if any(key in row for row in measures.values())}
    rows = [
        [TITLES[name], *(f"{row[key]:.4g}" if key in row else "-" for key in shown)] for name, row in measures.items()
    ]
    columns = {"guide": compared.guides, **images, **({} if compared.pairs is None else {"pair": compared.pairs})}
    cells = [[to_picture(column[number]) for column in columns.values()] for number in chosen_rows(numbers["images"])]
    sheet = picture_grid(cells, [TITLES[name] for name in columns], CELL)
    figure = Figure("translations", "Evenly spaced guides and their translations.", sheet)
    return ReportDocument(
        f"Translation into the domain of {target['file']}",
        [Section("Methods", [about], Table(["method", *shown.values()], rows), [figure])],
    )
