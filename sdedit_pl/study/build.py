"""From folders of images to the file of a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sdedit_pl.guides.guide_files import find_guides
from sdedit_pl.study.design import GUIDE, REAL, StudyError, Subject, deal, pairs_of
from sdedit_pl.study.pictures import common_shape, degraded, pair_up, png_bytes, read_picture
from sdedit_pl.study.plan import Plan
from sdedit_pl.study.store import write_study


def build_study(plan: Plan, file: Path) -> dict[str, Any]:
    """Writes the file of a new study.

    Args:
        plan: what it compares.
        file: where to; it must not be there.

    Returns:
        What the file says of itself: the plan, and how many items, forms and different comparisons there are.

    Raises:
        StudyError: if the folders do not pair up, or the images do not fit together.
        ValueError: if a folder has no images, or one cannot be read.
    """
    columns = {f"methods.{name}": source for name, source in plan.methods.items()}
    items = pair_up(columns if plan.guides is None else {**columns, "guides": plan.guides})
    shapes = {
        item: common_shape(item, {name: files[f"methods.{name}"] for name in plan.methods})
        for item, files in items.items()
    }
    real = {} if plan.real is None else {path.stem: path for path in find_guides(plan.real)}
    forms = deal(
        list(items),
        plan.questions,
        pairs_of(list(plan.methods), plan.pairs),
        comparisons=plan.comparisons,
        catches=plan.catches,
        seed=plan.seed,
        real=list(real),
    )
    files = {Subject(name, item): items[item][f"methods.{name}"] for name in plan.methods for item in items}
    files |= {Subject(GUIDE, item): paired["guides"] for item, paired in items.items() if "guides" in paired}
    files |= {Subject(REAL, item): path for item, path in real.items()}
    shown = sorted({subject for form in forms for trial in form for subject in trial.subjects})
    largest = max(shapes.values())
    pictures = {}
    for subject in shown:
        shape = largest if subject.source == REAL else shapes[subject.item]
        picture = read_picture(files[subject._replace(degraded=False)], shape)
        pictures[subject] = png_bytes(degraded(picture, plan.seed) if subject.degraded else picture)
    _check_different(plan.methods, items, pictures)
    settings = {key: value for key, value in asdict(plan).items() if key != "out"}
    settings |= {
        "sdedit_pl": version("sdedit_pl"),
        "items": len(items),
        "forms": len(forms),
        "asked": sum(trial.correct is None for form in forms for trial in form) // 2,  # each has its mirror
    }
    write_study(file, settings, forms, pictures)
    return settings


def _check_different(methods: Iterable[str], items: Iterable[str], pictures: Mapping[Subject, bytes]) -> None:
    """Raises a StudyError if two methods have the same images, as when one folder is given twice."""
    seen: dict[tuple[bytes, ...], str] = {}
    for method in methods:
        images = tuple(pictures[Subject(method, item)] for item in items)
        if images in seen:
            raise StudyError(f"{seen[images]} and {method} have the same images; is one of the folders another's?")
        seen[images] = method
