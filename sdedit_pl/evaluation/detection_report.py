"""The measures, the sheet and the report of `sdedit detect`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.data.image_format import PixelFormat
from sdedit_pl.evaluation.anomaly_maps import AnomalyMaps, image_score
from sdedit_pl.evaluation.report_document import Figure, ReportDocument, Section, Table
from sdedit_pl.evaluation.report_sections import CELL
from sdedit_pl.files import not_a_formula
from sdedit_pl.metrics.localisation import localisation
from sdedit_pl.picture_grid import picture_grid, to_picture

DETECTION_MEASURES = {"auroc": "AUROC", "auprc": "AUPRC", "dice": "best Dice", "pro": "PRO"}


def detection_measures(
    anomalies: Float[Tensor, "N T H W"], t0s: Sequence[float | str], top: float, truth: Bool[Tensor, "N H W"]
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Map -> measure -> (value, low, high), for the mean over all t0, for each t0, and for scores of whole images."""
    maps = {"all t0": anomalies.mean(1)}
    if len(t0s) > 1:
        maps |= {f"t0 = {t0}": anomalies[:, number] for number, t0 in enumerate(t0s)}
    found = {name: localisation(scores, truth) for name, scores in maps.items()}
    defective = truth.flatten(1).any(1)
    if not bool(defective.all()):
        scores = torch.tensor([image_score(scores, top) for scores in maps["all t0"]])
        of_images = localisation(scores[:, None, None], defective[:, None, None])
        found["whole images"] = {name: of_images[name] for name in ("auroc", "auprc")}
    return {name: {key: value.with_interval for key, value in row.items()} for name, row in found.items()}


def write_scores(
    file: Path, names: Sequence[str], scores: Sequence[float], truth: Bool[Tensor, "N H W"] | None
) -> None:
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(("image", "score", *(() if truth is None else ("defect",))))
        for number, (name, score) in enumerate(zip(names, scores, strict=True)):
            writer.writerow(
                (not_a_formula(name), f"{score:.6g}", *(() if truth is None else (int(truth[number].any()),)))
            )


def anomaly_sheet(
    shown: Mapping[int, tuple[AnomalyMaps, Float[Tensor, "H W"]]],
    images: ChosenImages,
    truth: Bool[Tensor, "N H W"] | None,
    format: PixelFormat | None,
) -> Image.Image:
    """Rows of image, reconstruction, map, spread and defects; one factor brightens all maps, another all spreads."""
    spreads = torch.stack([maps.spreads.mean(0) for maps, _ in shown.values()])
    brightest = torch.stack([anomaly for _, anomaly in shown.values()]).max()
    rows = []
    for number, spread in zip(shown, spreads / spreads.max().clamp(min=1e-6), strict=True):
        maps, anomaly = shown[number]
        grey = [anomaly / brightest, spread, *(() if truth is None else (truth[number],))]
        parts = [images.image(number), maps.reconstruction, *(2 * values[None].float() - 1 for values in grey)]
        rows.append([*(to_picture(part, format) for part in parts[:2]), *map(to_picture, parts[2:])])
    titles = ["image", "reconstruction", "map", "spread", *(() if truth is None else ("defect",))]
    return picture_grid(rows, titles, CELL)


def detection_report(numbers: Mapping[str, Any], picture: Image.Image) -> ReportDocument:
    model, measures, settings = numbers["model"], numbers["measures"], numbers["settings"]
    found = f", {numbers['with_defects']} of them with defects" if measures else ""
    relative = ", relative to the spread of the reconstructions" if settings["relative"] else ""
    about = (
        f"{numbers['images']} images of {settings['data']}{found}. {model['file']} (sha256 {model['sha256'][:16]}) "
        f"reconstructs each from t0 = {', '.join(map(str, settings['t0']))}, with {settings['samples']} seeds and "
        f"{settings['steps']} steps of {settings['solver']['name']}. The map is the mean of the residuals "
        f"({settings['residual']}, blurred by {settings['blur']:g} px{relative}); an image's score is the mean of its "
        f"highest {settings['top']:.2%} of pixels. Brackets are 95 % intervals of a bootstrap over images. PRO is the "
        "overlap with each connected defect, averaged over defects and over false-positive rates up to 0.3."
    )
    rows = [[name, *(_text(row.get(measure)) for measure in DETECTION_MEASURES)] for name, row in measures.items()]
    table = Table(["map", *DETECTION_MEASURES.values()], rows) if rows else None
    figure = Figure("maps", "Evenly spaced images; maps and spreads are brightened.", picture)
    return ReportDocument(f"Anomalies by {model['file']}", [Section("Maps", [about], table, [figure])])


def _text(estimate: Sequence[float] | None) -> str:
    return "-" if estimate is None else "{:.3f} [{:.3f}, {:.3f}]".format(*estimate)
