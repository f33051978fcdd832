"""The sections of the report, made from an evaluation's numbers and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from sdedit_pl.evaluation.ablations import ABLATIONS, COMPARED, MODEL
from sdedit_pl.evaluation.evaluation_plan import GUIDE, MASK, OURS
from sdedit_pl.evaluation.measurement import Measurement
from sdedit_pl.evaluation.numbered_images import NumberedImages
from sdedit_pl.evaluation.report_document import Figure, ReportDocument, Section, Table
from sdedit_pl.picture_grid import picture_grid
from sdedit_pl.plots import Point, trade_off_plot

SHEET_IMAGES = 8

FID_IMAGES, KID_IMAGES = 10_000, 1000
"""Numbers of images below which FID (Heusel et al., NeurIPS 2017) and KID get a warning."""
CELL = 128
"""Height and width of an image on a sheet, in pixels."""

TASK_TITLES = {
    "stroke_synthesis": "Images from strokes",
    "stroke_editing": "Strokes over images",
    "compositing": "Pasted patches",
}
METHOD_TITLES = {
    OURS: "SDEdit",
    "ddim": "DDIM round trip",
    "poisson": "Poisson blending",
    "laplacian": "Laplacian pyramid",
    "nearest_sample": "nearest sample",
}
METHOD_NOTES = {
    "ddim": "DDIM encodes to the same t0 and decodes from there, in the same number of steps each way.",
    "nearest_sample": "The nearest sample is chosen from as many unconditional samples as there are images; one sample "
    "may be the nearest to several guides.",
}

TABLE_COLUMNS: Sequence[tuple[str, Callable[[Mapping[str, Any]], str]]] = (
    ("KID ↓", lambda found: _with_error(found, "kid", 4)),
    ("95 % interval", lambda found: f"[{_number(found, 'kid_low', 4)}, {_number(found, 'kid_high', 4)}]"),
    ("KID of subsets", lambda found: _with_error(found, "kid_subsets", 4, "kid_subsets_deviation")),
    ("FID ↓", lambda found: _number(found, "fid", 2)),
    ("L2 to guide ↓", lambda found: _with_error(found, "squared_l2", 2)),
    ("SSIM to guide ↑", lambda found: _with_error(found, "ssim", 4)),
    ("L2 to pair ↓", lambda found: _with_error(found, "pair_squared_l2", 2)),
    ("SSIM to pair ↑", lambda found: _with_error(found, "pair_ssim", 4)),
    ("PSNR to pair ↑", lambda found: _with_error(found, "pair_psnr", 2)),
    ("RMS", lambda found: _number(found, "rms", 4)),
    ("masked LPIPS ↓", lambda found: _with_error(found, "masked_lpips", 4)),
    ("precision ↑", lambda found: _number(found, "precision", 3)),
    ("recall ↑", lambda found: _number(found, "recall", 3)),
    ("density ↑", lambda found: _number(found, "density", 3)),
    ("coverage ↑", lambda found: _number(found, "coverage", 3)),
)
"""Title of a column -> its text; columns without any number are left out."""
NONE = "-"


def make_report(numbers: Mapping[str, Any], evaluation: Measurement) -> ReportDocument:
    sections = [_task_section(task, found, evaluation) for task, found in numbers["tasks"].items()]
    sections += [
        _ablation_section(name, found, numbers["guides"], evaluation) for name, found in numbers["ablations"].items()
    ]
    sections += [_overview(numbers), _how_section(numbers)]
    return ReportDocument(f"Evaluation of {numbers[MODEL]['file']}", sections, few_images(numbers["images"]["count"]))


def few_images(count: int) -> str:
    """A warning if FID or KID rest on too few images; empty otherwise."""
    if count >= FID_IMAGES:
        return ""
    kid = f" KID is unbiased, but from fewer than {KID_IMAGES} images its intervals are wide."
    return (
        f"These numbers are from {count:,} images. FID from fewer than {FID_IMAGES:,} is too high, by an amount that "
        f"depends on their number: do not compare it with published values.{kid if count < KID_IMAGES else ''}"
    )


def chosen_rows(count: int) -> list[int]:
    """Evenly spread numbers of the images on a sheet, independent of results."""
    wanted = min(SHEET_IMAGES, count)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]


def measures_table(rows: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    texts = {column: [text(found) for found in rows.values()] for column, text in TABLE_COLUMNS}
    shown = {column: cells for column, cells in texts.items() if any(set(cell) & set("0123456789") for cell in cells)}
    lines = [[name, *(cells[index] for cells in shown.values())] for index, name in enumerate(rows)]
    return Table([title, *shown], lines)


def comparison_sheet(columns: Mapping[str, NumberedImages], numbers: Sequence[int]) -> Image.Image:
    shown = {title: pictures.shown(numbers) for title, pictures in columns.items()}
    rows = [list(row) for row in zip(*shown.values(), strict=True)]
    return picture_grid(rows, list(shown), CELL)


def _overview(numbers: Mapping[str, Any]) -> Section:
    checkpoint, settings, images = (numbers[key] for key in (MODEL, "settings", "images"))
    paragraphs = [
        f"{checkpoint['file']} (sha256 {checkpoint['sha256'][:16]}, {checkpoint['parameters']:,} parameters, "
        f"{checkpoint['sde']}), on {images['count']} images of {images['size']} x {images['size']} px "
        f"from {settings['data']}, split {settings['split']}.",
        f"Edits start from t0 = {settings['edit']['t0']} (noise level {settings['edit']['noise_level']:.3g}) and take "
        f"{settings['edit']['steps']} steps of {settings['solver']['name']} on the grid {settings['grid']['name']}, "
        f"K = {settings['repeats']}, variant {settings['variant']}."
        + "".join(f" {METHOD_NOTES[name]}" for name in settings["baselines"] if name in METHOD_NOTES),
        f"KID, FID, precision, recall, density and coverage compare results with these images by features of "
        f"{numbers['features']['name']} ({numbers['features']['identity']}). Other features have another scale: "
        "compare numbers within this report, or with reports on the same features.",
        f"KID leaves out the pairs of an edit and an image of its own group ({images['groups']} groups; groups "
        "pasted on each other count as one). ± gives the standard error over groups for KID, L2 and LPIPS, and the "
        "standard deviation over subsets for KID of subsets; the interval is a bootstrap over groups. FID, precision, "
        "recall, density and coverage leave nothing out: an edit whose mask keeps most of an image is compared with "
        "that image too.",
        "L2 is the squared distance to the guide, summed over pixels on [0, 1]; it grows with the number of pixels, "
        "RMS does not.",
    ]
    if COMPARED in numbers:
        other = numbers[COMPARED]
        paragraphs.append(
            f"In tables, ckpt is this model and compare is {other['file']} (sha256 {other['sha256'][:16]}, "
            f"{other['parameters']:,} parameters, {other['sde']})."
        )
    return Section("What was measured", [*paragraphs, *numbers["notes"]])


def _task_section(task: str, found: Mapping[str, Mapping[str, Any]], evaluation: Measurement) -> Section:
    methods = evaluation.methods(task)
    titles = {method: METHOD_TITLES.get(method, method) for method in methods}
    table = measures_table({titles[method]: measures for method, measures in found.items()}, "method")
    columns = {"original": evaluation.store.originals}
    if evaluation.plan.inputs[task].masked:
        columns["mask (white: may change)"] = evaluation.store.pictures(f"{task}/{MASK}")
    columns |= {titles[method]: pictures for method, pictures in methods.items()}
    figure = Figure(
        task,
        "Evenly spaced images, chosen before there were results.",
        comparison_sheet(columns, chosen_rows(evaluation.store.count)),
    )
    document = (type(evaluation.plan.inputs[task]).__doc__ or "").split("\n\n")[0]
    return Section(TASK_TITLES.get(task, task), [" ".join(document.split())], table, [figure])


def _ablation_section(
    name: str, found: Sequence[Mapping[str, Any]], guides: Mapping[str, Mapping[str, Any]], evaluation: Measurement
) -> Section:
    ablation, store = ABLATIONS[name], evaluation.store
    labels = [f"{row['model']}, {row['label']}" if ablation.compares else row["label"] for row in found]
    edits = {label: store.pictures(row["images"]) for label, row in zip(labels, found, strict=True)}
    sources = [row["images"].partition("/")[0] for row in found]
    several = len(set(sources)) > 1
    named = {
        source: f"{GUIDE}, {row['label']}" if several else GUIDE for source, row in zip(sources, found, strict=True)
    }
    numbers = chosen_rows(store.count)
    middle = numbers[len(numbers) // 2]
    curves: dict[str, dict[str, Point]] = {}
    for row in found:
        curve = row["model"] if ablation.compares else "edits"
        curves.setdefault(curve, {})[row["label"]] = (row["squared_l2"], _interval(row))
    shown: dict[str, NumberedImages] = {}  # each edit after its guide
    for source, (label, pictures) in zip(sources, edits.items(), strict=True):
        shown |= {named[source]: store.pictures(f"{source}/{GUIDE}"), label: pictures}
    plot = trade_off_plot(
        curves,
        title=f"Realism against faithfulness: {ablation.title}",
        x_title="L2 to guide (lower is more faithful)",
        y_title="KID to validation images (lower is more realistic)",
        levels={title: guides[source]["kid"] for source, title in named.items()},
        pictures={title: pictures.shown([middle])[0] for title, pictures in shown.items()},
    )
    return Section(
        f"Ablation: {ablation.title}",
        ['Simulated strokes of the validation images; all other settings are under "What was measured".'],
        measures_table(
            {**{title: guides[source] for source, title in named.items()}, **dict(zip(labels, found, strict=True))},
            "images",
        ),
        [
            Figure(f"ablation_{name}", f"KID against L2; below, the guide and the edits of image {middle}.", plot),
            Figure(
                f"ablation_{name}_images",
                "Evenly spaced images with their guides and edits.",
                comparison_sheet({"original": store.originals, **shown}, numbers),
            ),
        ],
    )


def _how_section(numbers: Mapping[str, Any]) -> Section:
    digests = [[folder, digest] for folder, digest in numbers["images"]["digests"].items()]
    return Section(
        "How to reproduce it",
        [
            f"Command: {numbers['command']}",
            f"Versions: {', '.join(f'{name} {version}' for name, version in numbers['versions'].items())}.",
            f"The inputs were made with seed {numbers['settings']['seed']}; equal digests mean equal pixels. They are "
            "in the folder images beside this report. outputs.NAME=FOLDER adds the outputs of another system, in files "
            "named like the inputs.",
        ],
        Table(["inputs", "sha256 of the pixels"], digests),
    )


def _interval(found: Mapping[str, Any]) -> float | tuple[float, float, float]:
    if found["kid_low"] is None or found["kid_high"] is None:
        return found["kid"]
    return found["kid"], found["kid_low"], found["kid_high"]


def _number(found: Mapping[str, Any], key: str, digits: int) -> str:
    value = found.get(key)
    return NONE if value is None else f"{value:.{digits}f}"


def _with_error(found: Mapping[str, Any], key: str, digits: int, error: str = "") -> str:
    value, deviation = _number(found, key, digits), _number(found, error or f"{key}_error", digits)
    return value if deviation == NONE else f"{value} ± {deviation}"
