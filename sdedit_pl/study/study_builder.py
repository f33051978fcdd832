"""Builds a study's database from folders of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sdedit_pl.data.array_formats import stem_of
from sdedit_pl.data.image_format import ImageShape
from sdedit_pl.picture_grid import png_bytes
from sdedit_pl.study.paired_images import common_shape, degraded_copy, image_files, pair_files, read_rgb
from sdedit_pl.study.study_database import write_study
from sdedit_pl.study.study_settings import StudyPlan
from sdedit_pl.study.trial_design import GUIDE_ORIGIN, REAL_ORIGIN, StudyError, TrialImage, design_forms, method_pairs


def build_study(plan: StudyPlan, file: Path, domain: ImageShape | None = None) -> dict[str, Any]:
    """Writes the database of a new study to `file`, which must not exist; `domain` as in `read_rgb`.

    Returns the stored settings: the plan and the numbers of items, forms and distinct comparisons (`asked`). Raises
    StudyError or ValueError for images without a partner, of another size, or that cannot be read.
    """
    sources = {f"methods.{name}": source for name, source in plan.methods.items()}
    items = pair_files(sources if plan.guides is None else {**sources, "guides": plan.guides})
    shapes = {
        item: common_shape(item, {name: files[f"methods.{name}"] for name in plan.methods})
        for item, files in items.items()
    }
    real = {} if plan.real is None else {stem_of(path): path for path in image_files("real", plan.real)}
    forms = design_forms(
        list(items),
        plan.questions,
        method_pairs(list(plan.methods), plan.pairs),
        comparisons=plan.comparisons,
        catches=plan.catches,
        seed=plan.seed,
        real=list(real),
    )
    files = {TrialImage(name, item): items[item][f"methods.{name}"] for name in plan.methods for item in items}
    files |= {TrialImage(GUIDE_ORIGIN, item): paired["guides"] for item, paired in items.items() if "guides" in paired}
    files |= {TrialImage(REAL_ORIGIN, item): path for item, path in real.items()}
    shown = sorted({image for form in forms for trial in form for image in trial.images})
    largest = max(shapes.values())
    pictures = {}
    for image in shown:
        shape = largest if image.origin == REAL_ORIGIN else shapes[image.item]
        picture = read_rgb(files[image._replace(degraded=False)], shape, domain)
        pictures[image] = png_bytes(degraded_copy(picture, plan.seed) if image.degraded else picture)
    _require_distinct(plan.methods, items, pictures)
    settings = {key: value for key, value in asdict(plan).items() if key != "out"}
    settings |= {
        "sdedit_pl": version("sdedit_pl"),
        "items": len(items),
        "forms": len(forms),
        "asked": sum(trial.correct is None for form in forms for trial in form) // 2,  # every form has a mirror
    }
    write_study(file, settings, forms, pictures)
    return settings


def _require_distinct(methods: Iterable[str], items: Iterable[str], pictures: Mapping[TrialImage, bytes]) -> None:
    seen: dict[tuple[bytes, ...], str] = {}
    for method in methods:
        images = tuple(pictures[TrialImage(method, item)] for item in items)
        if images in seen:
            raise StudyError(f"{seen[images]} and {method} have the same images; was one folder given twice?")
        seen[images] = method
