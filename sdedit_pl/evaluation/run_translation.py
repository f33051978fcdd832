"""One run of `sdedit translate`: images of one model's domain into another's, by several methods, and their report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sdedit_pl.build.component import build_component, build_unless_default
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.checkpoints.guidance_settings import labelled
from sdedit_pl.checkpoints.loading import load_for_editing
from sdedit_pl.checkpoints.sampler_settings import SamplerSettings
from sdedit_pl.configuration import Component, family, require_at_least
from sdedit_pl.data.array_formats import stem_of, suffixes_of
from sdedit_pl.data.chosen_images import choose_images
from sdedit_pl.data.image_format import Fit, ImageFormat, ImageShape
from sdedit_pl.data.value_decoding import result_file, result_suffix
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.many_guides import in_batches
from sdedit_pl.editing.translation import Bridge, away_from
from sdedit_pl.evaluation.editing_tasks import TaskInputs
from sdedit_pl.evaluation.methods import Method, SDEditMethod
from sdedit_pl.evaluation.numbered_images import NumberedImages
from sdedit_pl.evaluation.translation_report import BATCH, Compared, translation_measures, translation_report
from sdedit_pl.evaluation.unfinished_report import unfinished_report
from sdedit_pl.files import in_both_unicode_forms, result_name, sha256_of, whole_file
from sdedit_pl.guides.guide_files import (
    Guide,
    description_of_resizing,
    find_guides,
    image_size,
    read_guide,
    refuse_repeated,
)
from sdedit_pl.metrics.extractor_table import FEATURES
from sdedit_pl.metrics.features import FeatureExtractor, stream_features
from sdedit_pl.metrics.kid import LEAST_IMAGES
from sdedit_pl.sampling import Callback
from sdedit_pl.typing import Images

METHODS = ("ddib", "sdedit", "energy")
TWO_ENERGIES = "two_energies"

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TranslationSettings(SamplerSettings):
    """The images, the methods and the source model; `ckpt` is the model of the domain to translate into.

    Args:
        source_ckpt: model of the guides' domain, which ddib encodes with; see sdedit edit.
        source_label: label for source_ckpt; see label.
        guide: an image, a folder of images, or a glob.
        pairs: folder of images named like the guides, their true translations; null for none.
        target: images of the domain of `ckpt`, a folder or shards, for KID; null omits it.
        out: folder of the results.
        methods: ddib (both models' ODEs), sdedit (the target model's SDE from t0), energy (sdedit, guided by the low
            frequencies of the guide), two_energies (energy, guided away from the source's domain too; twice the cost).
        t0: how far sdedit, energy and two_energies noise a guide.
        level: noise level at which ddib passes from one model to the other; null for the highest both were trained on.
        lowpass: factor of the low-pass filter of energy and two_energies, see sdedit edit.
        lowpass_energy: weight of the guide's low frequencies, see sdedit edit.
        realism: weight w of the second energy, which adds w (target's score - source's score).
        steps: solver steps of each model.
        seed: seed of the first guide's noise; the next ones count up from it.
        fit: how guides and pairs get the models' proportions, see sdedit edit.
        overwrite: replace the results in `out`.
    """

    source_ckpt: str
    source_label: str | None = None
    guide: str
    pairs: str | None = None
    target: str | None = None
    out: str = "outputs/translate"
    methods: tuple[str, ...] = METHODS
    t0: float | str = "sigma:0.8"
    level: float | None = None
    lowpass: int = 8
    lowpass_energy: float = 1.0
    realism: float = 1.0
    steps: int = 50
    seed: int = 0
    fit: Fit = "crop"
    overwrite: bool = False
    features: Component[FeatureExtractor] = family(FEATURES, "efficientnet_lite0")

    def __post_init__(self) -> None:
        require_at_least(self, seed=0, batch=1)
        known = (*METHODS, TWO_ENERGIES)
        unknown = [method for method in self.methods if method not in known]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods are some of {', '.join(known)}, got {', '.join(self.methods)}")
        if not self.realism > 0:
            raise ValueError(f"realism must exceed 0, got {self.realism}; methods=[energy] does not use it")


def run_translation(settings: TranslationSettings) -> dict[str, Any]:
    """Writes translations and report, or nothing; returns the contents of metrics.json. An interrupted run resumes."""
    with unfinished_report(Path(settings.out), settings.overwrite) as unfinished:
        source, described = load_for_editing(settings.source_ckpt, settings.device)
        source = labelled(source, settings.source_label)
        target, description = settings.load()
        shape = description.image
        if described.image != shape:
            raise ValueError(f"source_ckpt and ckpt must have images of one shape, got {described.image} and {shape}")
        guides = checked_guides(settings.guide, shape, settings.fit)
        compared = read_compared(settings, guides, description.fit)
        count = len(guides)
        steps = settings.steps * len(settings.methods)
        settings.prepared(source, count, shape.pixels, steps)
        settings = settings.prepared(target, count, shape.pixels, steps)
        methods = methods_of(settings, source, target)
        recorded = settings.recorded(description.path) | {
            "source": fingerprint(described.path),
            "guides": {path.name: sha256_of(path) for path in guides.files},
        }
        finished = unfinished.begin(recorded, compared.inputs)
        if finished is not None:
            return finished
        made = {
            name: replace(guides, files=translations_of(guides.files, name, unfinished.results)) for name in methods
        }
        with in_precision(source, settings.precision), in_precision(target, settings.precision):
            translate(settings, methods, guides, made)
        files = [{"file": model.path.name, "sha256": fingerprint(model.path)} for model in (described, description)]
        measures = {name: translation_measures(images, compared) for name, images in {"guide": guides, **made}.items()}
        numbers = {"models": files, "settings": {**recorded, **compared.inputs}, "images": count, "measures": measures}
        translation_report(numbers, made, compared).write(unfinished.results, numbers)
    return numbers


def translations_of(guides: Sequence[Path], method: str, folder: Path) -> tuple[Path, ...]:
    return tuple(folder / result_name(stem_of(path), f"_{method}{result_suffix(path)}") for path in guides)


@dataclass(frozen=True)
class BridgeMethod:
    bridge: Bridge
    source: Denoiser

    def check(self, denoiser: Denoiser) -> None:
        self.bridge.common_level(self.source, denoiser)

    def total_steps(self, denoiser: Denoiser) -> int:
        return 2 * self.bridge.steps - 1

    def __call__(
        self, denoiser: Denoiser, inputs: TaskInputs, seeds: Sequence[int], callback: Callback | None
    ) -> Images:
        return self.bridge(self.source, denoiser, inputs.guide, callback)


def methods_of(settings: TranslationSettings, source: Denoiser, target: Denoiser) -> dict[str, tuple[Denoiser, Method]]:
    """The chosen methods with their models; raises ValueError if the models do not allow one."""
    solver, grid = build_unless_default(settings.solver), build_unless_default(settings.grid)
    edit = SDEdit(settings.t0, settings.steps, solver=solver, grid=grid)
    guided_edit = SDEditMethod(replace(edit, lowpass=settings.lowpass, lowpass_energy=settings.lowpass_energy))
    found: dict[str, tuple[Denoiser, Method]] = {
        "ddib": (target, BridgeMethod(Bridge(settings.level, settings.steps), source)),
        "sdedit": (target, SDEditMethod(edit)),
        "energy": (target, guided_edit),
    }
    if TWO_ENERGIES in settings.methods:
        found[TWO_ENERGIES] = away_from(source, target, settings.realism), guided_edit
    chosen = {name: found[name] for name in settings.methods}
    for denoiser, method in chosen.values():
        method.check(denoiser)
    return chosen


def translate(
    settings: TranslationSettings,
    methods: Mapping[str, tuple[Denoiser, Method]],
    guides: NumberedImages,
    made: Mapping[str, NumberedImages],
) -> None:
    missing = {name: made[name].missing() for name in methods}
    steps = {name: method.total_steps(denoiser) for name, (denoiser, method) in methods.items()}
    total = sum(steps[name] * len(numbers) for name, numbers in missing.items())
    with tqdm(total=total, unit="step", desc="translating", disable=None) as progress:
        for name, (denoiser, method) in methods.items():

            def make(
                chunk: Sequence[int], tick: Callback | None, denoiser: Denoiser = denoiser, method: Method = method
            ) -> Images:
                images = guides.read(chunk).to(next(denoiser.parameters()).device)
                return method(denoiser, TaskInputs(images, images), [settings.seed + n for n in chunk], tick).cpu()

            pixels = guides.format.pixels
            images = in_batches(denoiser, make, missing[name], pixels, batch=settings.batch, on_step=progress.update)
            for number, image in images:
                guide, file = guides.files[number], made[name].files[number]
                shown = Guide(guide, image[None], image_size(guide), fit=guides.format.fit).shown(image.clamp(-1, 1))
                with whole_file(file) as unfinished:
                    unfinished.write_bytes(
                        result_file(shown, guides.format, result_suffix(guide), guide, fit=guides.format.fit)
                    )


def checked_guides(guide: str, shape: ImageShape, fit: Fit = "crop") -> NumberedImages:
    """The guides of a path, folder or glob; raises ValueError if one is unreadable, or two have the same name."""
    paths = find_guides(guide, suffixes_of(shape))
    refuse_repeated(paths)
    for number, path in enumerate(paths):
        found = read_guide(path, shape, fit)
        if found.resized and number < 8:
            logger.info("%s", description_of_resizing(found))
    return NumberedImages(paths[0].parent, len(paths), ImageFormat.of(shape, fit=fit), tuple(paths))


def read_compared(settings: TranslationSettings, guides: NumberedImages, fit: Fit) -> Compared:
    """The images to compare translations with; raises ValueError for a guide without a pair, or too few for KID."""
    pairs, inputs = None, dict[str, str]()
    if settings.pairs is not None:
        named = in_both_unicode_forms(
            {stem_of(file): file for file in find_guides(settings.pairs, suffixes_of(guides.format))}
        )
        lacking = [stem_of(path) for path in guides.files if stem_of(path) not in named]
        if lacking:
            raise ValueError(f"pairs={settings.pairs} has no image named like the guide {lacking[0]}")
        pairs = replace(guides, files=tuple(named[stem_of(path)] for path in guides.files))
        inputs = {str(path): sha256_of(path) for path in pairs.files}
    if settings.target is None:
        return Compared(guides, inputs, pairs)
    target = choose_images(
        settings.target, guides.format, split="all", val_fraction=0.05, count=None, least=LEAST_IMAGES, fit=fit
    )
    if len(guides) < LEAST_IMAGES:
        raise ValueError(f"KID needs at least {LEAST_IMAGES} guides, got {len(guides)}; omit target")
    extractor = build_component(settings.features)
    batches = (target.batch(start, BATCH) for start in range(0, len(target), BATCH))
    inputs["target_sha256"] = target.digest()
    return Compared(guides, inputs, pairs, stream_features(extractor, batches), extractor)
