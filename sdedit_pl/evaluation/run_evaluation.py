"""One evaluation from start to end. All checks precede the editing, which takes hours."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sdedit_pl.build.component import build_component
from sdedit_pl.checkpoints import Description
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.configuration.resolving import as_data
from sdedit_pl.data.chosen_images import ChosenImages, choose_images
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.ablations import MODEL
from sdedit_pl.evaluation.dependent_images import Partners, group_numbers, partners, read_groups, short_name
from sdedit_pl.evaluation.evaluation_arguments import UNRECORDED_KEYS, EvaluationArguments
from sdedit_pl.evaluation.evaluation_plan import GUIDE, ORIGINAL, EvaluationPlan, make_plan
from sdedit_pl.evaluation.image_maker import ComputeSettings, ImageMaker
from sdedit_pl.evaluation.image_store import EvaluationRecord, ImageStore, check_place, digest_of
from sdedit_pl.evaluation.measurement import COVERAGE_IMAGES, LEAST_GROUPS, Instruments, Measurement
from sdedit_pl.evaluation.other_systems import find_outputs
from sdedit_pl.evaluation.report_document import ReportDocument
from sdedit_pl.evaluation.report_sections import make_report
from sdedit_pl.grids import start_time
from sdedit_pl.metrics.checked_weights import WeightsUnavailable
from sdedit_pl.metrics.masked_lpips import SMALLEST, MaskedLPIPS

logger = logging.getLogger(__name__)

LEAST_COLUMNS = 5
"""Columns of edits that nearly every evaluation makes; see `sdedit_pl.machine` for when compiling pays off."""


class EvaluatedModel(NamedTuple):
    """A denoiser, its checkpoint's description, and a recipe of all else that its images depend on."""

    denoiser: Denoiser
    description: Description
    recipe: str = ""


def run_evaluation(
    arguments: EvaluationArguments, edit: SDEdit, models: Mapping[str, EvaluatedModel], command: str
) -> tuple[dict[str, Any], ReportDocument] | None:
    """Makes the missing images, measures everything and makes the report; raises ValueError for unusable arguments.

    `models` are under `MODEL` and, for some ablations, `COMPARED`. The first process returns the contents of
    `metrics.json` and the report, the others None.
    """
    check_packages()
    out = Path(arguments.out)
    check_place(out)
    description = models[MODEL].description
    val_fraction = description.val_fraction(arguments.val_fraction)
    arguments = replace(arguments, val_fraction=val_fraction)
    shape = description.image
    images = choose_images(
        arguments.data,
        shape,
        split=arguments.split,
        val_fraction=val_fraction,
        count=arguments.images,
        least=COVERAGE_IMAGES,
        fit=description.fit,
        out=out,
    )
    features = build_component(arguments.features)
    denoisers = {name: model.denoiser for name, model in models.items()}
    names = ("tasks", "baselines", "ablations", "seed")
    plan = make_plan(edit, values=arguments.ablation, **{name: getattr(arguments, name) for name in names})
    plan.check(denoisers)
    names = [short_name(name) for name in images.names]
    groups = group_numbers(names, None if arguments.groups is None else read_groups(arguments.groups))
    store = ImageStore(out, len(names), ImageFormat.of(shape), _partners(plan, groups))
    check_counts(store, groups, arguments)
    # The plan's columns do not count: later runs may add some, and the images must not depend on that.
    steps = edit.total_steps(denoisers[MODEL].sde)
    computing = ComputeSettings(**{field.name: getattr(arguments, field.name) for field in fields(ComputeSettings)})
    computing = computing.resolved(LEAST_COLUMNS * store.count * steps * denoisers[MODEL].evaluations)
    record = _record(plan, images, groups, models, computing)
    record = record if arguments.overwrite else record.continuing(out)
    outputs = find_outputs(arguments.outputs or {}, arguments.tasks, store.count, store.format)
    lpips, notes = _masked_lpips(plan, store, arguments)
    device = ImageMaker(plan, images, store, record, arguments.batch, arguments.overwrite).make(denoisers, computing)
    if device is None:
        return None
    instruments = Instruments(features, lpips, device, kid_subset=arguments.kid_subset)
    measurement = Measurement(plan, store, groups, outputs, instruments)
    numbers = {**_facts(measurement, models, arguments, command), "notes": notes, **measurement.measure()}
    return numbers, make_report(numbers, measurement)


def check_packages() -> None:
    missing = [name for name in ("jinja2", "matplotlib", "torch_fidelity") if find_spec(name) is None]
    if missing:
        raise ValueError(f"the report needs {' and '.join(missing)}; pip install 'sdedit-pl[evaluation]'")


def check_counts(store: ImageStore, groups: Sequence[int], settings: EvaluationArguments) -> None:
    """Raises ValueError if a metric needs more images, or more groups of images, than there are."""
    needed = max(COVERAGE_IMAGES, settings.kid_subset or 0)
    if store.count < needed:
        subset = needed > COVERAGE_IMAGES
        remedies = ["give more images"]
        remedies += ["split=all if training has seen none of them"] * (settings.split == "val")
        remedies += ["a smaller kid_subset"] * subset
        raise ValueError(
            f"{'kid_subset' if subset else 'an evaluation'} needs at least {needed} images, got {store.count}; "
            + ", or ".join(remedies)
        )
    for found, kind in (
        (groups, "groups of images"),
        (store.partners.groups, "pairs of groups that are pasted on each other"),
    ):
        count = len(set(found))
        if found and count < LEAST_GROUPS:
            raise ValueError(
                f"KID needs at least {LEAST_GROUPS} {kind}, and the {store.count} images have {count}; give "
                "more images" + (", or tasks without compositing" if kind != "groups of images" else "")
            )


def _partners(plan: EvaluationPlan, groups: Sequence[int]) -> Partners:
    pastes = any(task.pastes for task in plan.inputs.values())
    return partners(groups, plan.seed) if pastes else Partners([], [])


def _record(
    plan: EvaluationPlan,
    images: ChosenImages,
    groups: Sequence[int],
    models: Mapping[str, EvaluatedModel],
    computing: ComputeSettings,
) -> EvaluationRecord:
    originals = {
        "images": f"{len(images)} with names of sha256 {digest_of(images.names)}",
        "format": str(models[MODEL].description.image),
    }
    identities = {
        name: fingerprint(model.description.path) + model.recipe + computing.recipe for name, model in models.items()
    }
    return EvaluationRecord(originals, plan.recipes(identities, digest_of([str(group) for group in groups])))


def _masked_lpips(
    plan: EvaluationPlan, store: ImageStore, arguments: EvaluationArguments
) -> tuple[MaskedLPIPS | None, list[str]]:
    """The masked LPIPS, or None; and a note for the report if it is missing although requested."""
    if arguments.lpips == "none" or not any(plan.inputs[task].masked for task in plan.tables):
        return None, []
    if min(store.format.sides) < SMALLEST:
        return None, [f"There is no masked LPIPS: it needs images of at least {SMALLEST} px."]
    try:
        return MaskedLPIPS(arguments.lpips, arguments.lpips_weights), []
    except WeightsUnavailable as error:
        logger.warning("masked LPIPS is left out: %s", error)
        return None, [f"There is no masked LPIPS: {error}."]


def _facts(
    measurement: Measurement, models: Mapping[str, EvaluatedModel], arguments: EvaluationArguments, command: str
) -> dict[str, Any]:
    keys = {key: value for key, value in as_data(arguments).items() if key not in UNRECORDED_KEYS}
    plan, store, features = measurement.plan, measurement.store, measurement.instruments.features
    edit, sde = plan.edit, models[MODEL].denoiser.sde
    level = sde.noise_level(torch.tensor(start_time(edit.t0, sde), dtype=torch.float64))
    described_edit = {"t0": edit.t0, "noise_level": level.item(), "steps": edit.step_count, "all": repr(edit)}
    inputs = {ORIGINAL: store.originals, **{name: store.pictures(f"{name}/{GUIDE}") for name in plan.inputs}}
    return {
        **{name: _identity(model) for name, model in models.items()},
        "settings": {**keys, "edit": described_edit},
        "command": command,
        "images": {
            "count": store.count,
            "size": as_data(store.format.size),
            "groups": len(set(measurement.groups)),
            "digests": {name: pictures.digest() for name, pictures in inputs.items()},
        },
        "features": {"name": keys["features"]["name"], "identity": features.identity},
        "versions": {"sdedit_pl": version("sdedit_pl"), "torch": str(torch.__version__)},
    }


def _identity(model: EvaluatedModel) -> dict[str, Any]:
    return {
        "file": str(model.description.path),
        "sha256": fingerprint(model.description.path),
        "parameters": model.description.parameters,
        "sde": repr(model.denoiser.sde),
    }
