"""One run of `sdedit translate`: images of one model's domain into another's, by several methods, and their report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sdedit_pl.build.component import build_component, build_unless_usual
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.checkpoints.guidance import labelled
from sdedit_pl.checkpoints.loading import load_for_editing
from sdedit_pl.checkpoints.model_settings import ModelSettings
from sdedit_pl.configuration import Component, family, require_at_least
from sdedit_pl.configuration.resolving import as_data
from sdedit_pl.data.chosen_images import choose_images
from sdedit_pl.data.image_format import ImageShape
from sdedit_pl.data.value_decoding import result_file, result_suffix
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.many_guides import in_batches
from sdedit_pl.editing.translation import Bridge
from sdedit_pl.evaluation.report_document import METRICS_FILE
from sdedit_pl.evaluation.translation_report import LEAST_IMAGES, Compared, measures_of, report
from sdedit_pl.files import result_name, write_whole
from sdedit_pl.guides.guide_files import Guide, find_guides, read_guide, read_guides
from sdedit_pl.metrics.extractor_table import FEATURES
from sdedit_pl.metrics.features import FeatureExtractor, features_of
from sdedit_pl.result_folder import RECORDED, files_recorded_in, hashes_of, refuse_used, result_folder
from sdedit_pl.sampling import Callback
from sdedit_pl.typing import Images

METHODS = ("ddib", "sdedit", "energy")


@dataclass(kw_only=True)
class TranslationSettings(ModelSettings):
    """The images and the methods, beside the model of the domain that images are translated into.

    Args:
        source_ckpt: model of the guides' domain, which ddib encodes with; see sdedit edit.
        source_label: label for that model, see label.
        guide: an image, a folder of images, or a glob.
        pairs: folder of images named like the guides, their true translations; null for none.
        target: images of the domain of `ckpt`, a folder or shards, for KID; null leaves it out.
        out: folder of the results.
        methods: ddib (both models' ODEs), sdedit (the target model's SDE from t0), energy (the same, guided by the
            low frequencies of the guide).
        t0: how far sdedit and energy noise a guide.
        level: noise level of the state that ddib exchanges; null for the highest that both models know.
        lowpass: factor of the low-pass filter of energy, see sdedit edit.
        lowpass_energy: weight of the energy, see sdedit edit.
        steps: solver steps of each model.
        seed: of the first guide's noise; the next ones count up from it.
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
    steps: int = 50
    seed: int = 0
    overwrite: bool = False
    features: Component[FeatureExtractor] = family(FEATURES, "efficientnet_lite0")

    def __post_init__(self) -> None:
        require_at_least(self, seed=0, batch=1)
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods are some of {', '.join(METHODS)}, got {', '.join(self.methods)}")


@dataclass(frozen=True)
class Translator:
    """A method with its models: images and their numbers to translations."""

    translate: Callable[[Images, Sequence[int], Callback | None], Images]
    steps: int


def run_translation(settings: TranslationSettings) -> dict[str, Any]:
    """Writes translations and the report to `settings.out`; returns the contents of its metrics.json.

    Raises:
        ValueError: settings, files or the device do not allow it. No result is written then.
    """
    folder, replaced = Path(settings.out), set[str]()
    with result_folder(folder, replaced=replaced) as results:
        refuse_used(folder, settings.overwrite)
        replaced |= files_recorded_in(folder / METRICS_FILE)
        source, described = load_for_editing(settings.source_ckpt, settings.device)
        source = labelled(source, settings.source_label)
        target, description = settings.load()
        shape = description.image
        if described.image != shape:
            raise ValueError(f"source_ckpt and ckpt must have images of one shape, got {described.image} and {shape}")
        translators = translators_of(settings, source, target)
        guides = read_guides(settings.guide, shape)
        compared = read_compared(settings, shape, guides)
        steps = settings.steps * len(translators)
        settings.prepared(source, len(guides), shape.pixels, steps)
        settings = settings.prepared(target, len(guides), shape.pixels, steps)
        with in_precision(source, settings.precision), in_precision(target, settings.precision):
            images = translated(translators, target, compared.guides, settings.batch)
        for name in translators:
            for guide, image in zip(guides, images[name], strict=True):
                suffix = result_suffix(guide.path)
                content = result_file(image, shape, suffix, guide.path)
                (results / result_name(guide.path.stem, f"_{name}{suffix}")).write_bytes(content)
        files = [{"file": made.path.name, "sha256": fingerprint(made.path)} for made in (described, description)]
        measures = measures_of({"guide": compared.guides, **images}, compared)
        numbers = {"models": files, "settings": as_data(settings), "images": len(guides), "measures": measures}
        report(numbers, images, compared).write(results)
        numbers[RECORDED] = hashes_of(results)
        write_whole(results / METRICS_FILE, json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    return numbers


def translators_of(settings: TranslationSettings, source: Denoiser, target: Denoiser) -> dict[str, Translator]:
    """The chosen methods. Raises ValueError if the models do not allow their noise levels."""
    solver, grid = build_unless_usual(settings.solver), build_unless_usual(settings.grid)
    bridge, edit = Bridge(settings.level, settings.steps), SDEdit(settings.t0, settings.steps, solver=solver, grid=grid)
    guided = replace(edit, lowpass=settings.lowpass, lowpass_energy=settings.lowpass_energy)
    bridge.common_level(source, target)
    edit.check(target)

    def by_edit(made: SDEdit) -> Translator:
        def translate(images: Images, numbers: Sequence[int], tick: Callback | None) -> Images:
            return made(target, images, seeds=[settings.seed + number for number in numbers], callback=tick)

        return Translator(translate, made.total_steps(target.sde))

    every = {
        "ddib": Translator(lambda images, _, tick: bridge(source, target, images, tick), 2 * settings.steps - 1),
        "sdedit": by_edit(edit),
        "energy": by_edit(guided),
    }
    return {name: every[name] for name in settings.methods}


def translated(
    translators: dict[str, Translator], denoiser: Denoiser, guides: Images, batch: int | None
) -> dict[str, Float[Tensor, "N C H W"]]:
    """The translations of all guides by each method, clamped to [-1, 1], on the CPU."""
    device, found = next(denoiser.parameters()).device, {}
    numbers = range(len(guides))
    steps = sum(translator.steps for translator in translators.values())
    with tqdm(total=steps * len(guides), unit="step", desc="translating", disable=None) as progress:
        for name, translator in translators.items():

            def make(chunk: Sequence[int], tick: Callback | None, made: Translator = translator) -> Images:
                return made.translate(guides[list(chunk)].to(device), chunk, tick).cpu()

            pixels = guides[0, 0].numel()
            images = in_batches(denoiser, make, numbers, pixels, batch=batch, on_step=progress.update)
            found[name] = torch.stack([image for _, image in images]).clamp(-1, 1)
    return found


def read_compared(settings: TranslationSettings, shape: ImageShape, guides: Sequence[Guide]) -> Compared:
    """Reads the images and features that translations are compared with.

    Raises:
        ValueError: a guide without a pair, or too few images for KID.
    """
    images, pairs = torch.cat([guide.image for guide in guides]), None
    if settings.pairs is not None:
        named = {file.stem: file for file in find_guides(settings.pairs)}
        lacking = [guide.path.stem for guide in guides if guide.path.stem not in named]
        if lacking:
            raise ValueError(f"pairs={settings.pairs} has no image named like the guide {lacking[0]}")
        pairs = torch.cat([read_guide(named[guide.path.stem], shape).image for guide in guides])
    if settings.target is None:
        return Compared(images, pairs)
    target = choose_images(settings.target, shape, split="all", val_fraction=0.05, count=None, least=LEAST_IMAGES)
    if len(guides) < LEAST_IMAGES:
        raise ValueError(f"KID needs at least {LEAST_IMAGES} guides, got {len(guides)}; omit target")
    extractor = build_component(settings.features)
    found = torch.cat([extractor(target.batch(start, 32)) for start in range(0, len(target), 32)])
    return Compared(images, pairs, found, lambda others: features_of(extractor, others))
