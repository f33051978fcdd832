"""How few network evaluations an edit needs: every solver and grid against 500 steps of SDEdit's own algorithm.

    python benchmarks/solvers.py ckpt=checkpoints/portraits64.safetensors out=outputs/solvers

Every validation image becomes a simulated stroke painting, and each painting is edited with each solver on each
grid at each number of evaluations, from the same seeds. Measured are the KID of the edits to the originals
and their L2 to the paintings, with intervals over resampled groups of images, and the differences of both to the runs
of 500 steps over the same groups. What the groups are and why is in benchmarks/README.md.

`out` gets results.json after every cell, so that the same command goes on where it was, and further solvers, grids,
evaluations, t0 and colours are added to what is there. report.md, plots and sheets are drawn again from all of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from command import refuse_unknown, run_command
from jaxtyping import Float
from measuring import machine
from mixture import all_solvers
from portraits64 import Extract, Portraits, edited, read_design_of, with_error
from portraits64_report import spread
from safetensors.torch import load_file, save_file
from solvers_plan import Cell, evaluations_of, planned
from solvers_report import REFERENCES, blocks, draw, report
from torch import Tensor, nn
from tqdm import tqdm

from sdedit_pl.build.components import build_component
from sdedit_pl.checkpoints import Description, files_of
from sdedit_pl.checkpoints.load_for_editing import load_for_editing
from sdedit_pl.configuration import Component, family, require_at_least
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.resolution import as_data, resolve_component
from sdedit_pl.configuration.schema import Family
from sdedit_pl.data import FolderSource, WebDatasetSource
from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.data.images import bytes_from_images, images_from_bytes
from sdedit_pl.denoiser import in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.files import sha256_of, whole_file, write_whole
from sdedit_pl.grids import GRIDS
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.metrics.distances import squared_l2
from sdedit_pl.metrics.feature_table import FEATURES
from sdedit_pl.metrics.features import features_of
from sdedit_pl.metrics.intervals import percentile_interval
from sdedit_pl.metrics.paired_bootstrap import GroupSums, PairedBootstrap
from sdedit_pl.typing import Images

USAGE = "python benchmarks/solvers.py ckpt=FILE out=FOLDER [key=value ...]"
RESULTS_FILE = "results.json"
LEAST_IMAGES = 3
IMAGES_SHOWN = 8
L2_TOLERANCE = 0.01
FREE = ("out", "t0", "colours", "solvers", "grids", "evaluations", "references", "threads")
"""Settings that may change between two calls: they choose cells, or change nothing that is measured."""


@dataclass
class Arguments:
    """A measurement.

    Args:
        ckpt: the model: a .safetensors or .ckpt file, or the folder of a run.
        out: folder of the results.
        t0: how far guides are noised, in the order of measuring.
        colours: of the guides, in the order of measuring; 3 are crude.
        solvers: names of solvers; "er_sde stages=2" and "unipc predictor_order=3" are there too.
        grids: names of grids.
        evaluations: how often the network may be called for an edit.
        references: long runs to compare with: paper (Algorithm 2 or 4, as the model's SDE asks for) and ancestral (the
            package's own, on the SDE's exact transitions); tables and plots hold the others against ancestral where
            both are measured, recommendations against each.
        reference_steps: of the references.
        images: edit so many validation images, evenly spaced through the split; null for all.
        samples: edits of each painting, each with a seed of its own; several narrow the intervals of L2 most.
        data: folder of images, with sub-folders train and val or without, or of WebDataset shards.
        groups: which images are no independent draws: those of one design (as the build.py of portraits64 has it), of
            one folder, or only an edit and its own original (image).
        batch: images edited at once.
        precision: of the network; the state is always float32.
        compile: compile the network, which takes its time in the first cell.
        device: auto, cpu, cuda, mps.
        threads: of torch; null for its default.
    """

    ckpt: str
    out: str
    t0: tuple[float | str, ...] = (0.45, 0.3, 0.6)
    colours: tuple[int, ...] = (6, 3)
    solvers: tuple[str, ...] = (
        "sde_dpm_solver_2m",
        "euler_maruyama",
        "edm_heun",
        "ancestral",
        "dpm_solver_2m",
        "unipc",
        "er_sde",
        "ddim",
    )
    grids: tuple[str, ...] = ("uniform", "karras", "log_snr")
    evaluations: tuple[int, ...] = (5, 10, 15, 20, 25, 50, 100)
    references: tuple[str, ...] = REFERENCES
    reference_steps: int = 500
    images: int | None = None
    samples: int = 1
    data: str = "data/portraits64"
    groups: Literal["design", "folder", "image"] = "design"
    batch: int = 32
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    compile: bool = False
    device: str = "auto"
    threads: int | None = None
    features: Component = family(FEATURES, "efficientnet_lite0")

    def __post_init__(self) -> None:
        require_at_least(self, images=LEAST_IMAGES, samples=1, batch=1, threads=1)
        refuse_unknown("solvers", self.solvers, all_solvers())
        refuse_unknown("grids", self.grids, GRIDS)
        refuse_unknown("references", self.references, REFERENCES)
        if not all(1 <= count < self.reference_steps for count in self.evaluations):
            raise ValueError(
                f"evaluations lie in 1 to reference_steps - 1 = {self.reference_steps - 1}, got {self.evaluations}"
            )
        for t0 in self.t0:
            SDEdit(t0)


COMMAND = Command(USAGE, Arguments)


class CountedNetwork(nn.Module):
    """A network that counts what it is given.

    Args:
        network: what computes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.images = 0

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.images += len(x)
        return self.network(x, label)


class Measurement:
    """The results so far, in a file, and what adds to them.

    Args:
        settings: the resolved arguments.

    Raises:
        ValueError: an argument out of range, a file that is not what it should be, or results in `out` that were
            measured otherwise.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.folder = Path(settings["out"])
        denoiser, description = load_for_editing(settings["ckpt"], settings["device"])
        self.results: dict[str, Any] = self._results(description)
        for t0 in settings["t0"]:
            SDEdit(t0).check(denoiser)
        if settings["compile"]:
            denoiser.network.compile()
        self.denoiser = denoiser
        self.denoiser.network = self.network = CountedNetwork(denoiser.network)
        self.denoiser.at_once = None
        extractor = build_component(
            resolve_component("features", settings["features"], Family(FEATURES, "efficientnet_lite0"))
        )

        def extract(pixels: Images) -> Tensor:
            return features_of(extractor, pixels)

        self.extract: Extract = extract
        images = read_originals(settings, description, extract)
        self.originals = images[torch.arange(len(images)).repeat(settings["samples"])]
        self.chosen = spread(len(images), IMAGES_SHOWN)
        self.bootstrap = PairedBootstrap.of(self.originals.designs)
        self.guides = {
            colours: self.originals.made_into(stroke_painting(self.originals.pixels, int(colours)), extract)
            for colours in dict.fromkeys([*self.results["guides"], *map(str, settings["colours"])])
        }
        self.results["images"] = {"images": len(images), "groups": len(images.designs.unique())}
        for colours, guides in self.guides.items():
            self.results["guides"][colours] = with_error(guides.kid(self.originals))

    def measure(self, cell: Cell) -> dict[str, Any]:
        """The record of a cell, which is edited and measured, compared with its references, and written."""
        edit, guides = cell.edit(self.denoiser.sde), self.guides[str(cell.colours)]
        assert edit is not None
        self.network.images = 0
        began = time.perf_counter()
        with (
            tqdm(total=edit.step_count * len(guides), desc=cell.name, leave=False, disable=None) as bar,
            in_precision(self.denoiser, self.settings["precision"]),
        ):
            pixels = edited(self.denoiser, edit, guides.pixels, self.settings["batch"], bar)
        seconds = time.perf_counter() - began
        edits = self.originals.made_into(pixels, self.extract)
        l2 = squared_l2(edits.pixels, guides.pixels)
        sums = GroupSums.of(edits.features, self.originals.features, l2, self.originals.designs)
        self._store(cell, sums, edits.pixels[self.chosen])
        record = {
            **asdict(cell),
            "reference": cell.is_reference(self.settings["reference_steps"]),
            "steps": edit.step_count,
            "evaluations": self.network.images / len(guides),
            "stochastic": cell.solver == "paper" or all_solvers()[cell.solver].stochastic,
            "kid": {
                **with_error(edits.kid(self.originals)),
                **interval(self.bootstrap.kid(sums.discrepancy)),
            },
            "l2": {"value": l2.mean().item(), **interval(self.bootstrap.l2(sums.l2))},
            "seconds_per_edit": seconds / len(guides),
            "load": os.getloadavg()[0],
            "versus": {},
        }
        self.results["cells"][cell.name] = record
        self.compare()
        self.write()
        return record

    def compare(self) -> None:
        """Adds what is missing of the comparisons of every cell with the references of its block."""
        for cells in blocks(self.results).values():
            references = [record for record in cells if record["reference"]]
            for record in cells:
                for reference in references:
                    if reference is not record and reference["solver"] not in record["versus"]:
                        record["versus"][reference["solver"]] = self._comparison(record, reference)

    def _comparison(self, record: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
        """How a cell differs from a reference."""
        sums, reference_sums = self._sums(record), self._sums(reference)
        differences = self.bootstrap.kid(sums.discrepancy - reference_sums.discrepancy)
        ratios = self.bootstrap.l2(sums.l2) / self.bootstrap.l2(reference_sums.l2)
        kid, wanted, ratio = record["kid"]["value"], reference["kid"], record["l2"]["value"] / reference["l2"]["value"]
        place = "below" if kid < wanted["low"] else "above" if kid > wanted["high"] else "inside"
        return {
            "kid": {"value": kid - wanted["value"], **interval(differences)},
            "kid_place": place,
            "l2": {"value": ratio - 1, **interval(ratios - 1)},
            "meets_goal": place != "above" and abs(ratio - 1) <= L2_TOLERANCE,
        }

    def _store(self, cell: Cell, sums: GroupSums, shown: Images) -> None:
        with whole_file(self.folder / "cells" / cell.file) as file:
            save_file({"discrepancy": sums.discrepancy, "l2": sums.l2, "shown": bytes_from_images(shown)}, file)

    def _sums(self, record: Mapping[str, Any]) -> GroupSums:
        tensors = load_file(self.folder / "cells" / cell_of(record).file)
        return GroupSums(tensors["discrepancy"], tensors["l2"])

    def shown(self, record: Mapping[str, Any]) -> Images:
        """The edits of a cell that pictures show."""
        return images_from_bytes(load_file(self.folder / "cells" / cell_of(record).file)["shown"])

    def draw(self) -> None:
        """Writes the report and draws the plots and the sheets of everything that is there."""
        write_whole(self.folder / "report.md", report(self.results))
        guides = {colours: guides.pixels[self.chosen] for colours, guides in self.guides.items()}
        draw(self.results, self.originals.pixels[self.chosen], guides, self.shown, self.folder)

    def write(self) -> None:
        """Writes the results, whole or not at all."""
        write_whole(self.folder / RESULTS_FILE, json.dumps(self.results, indent=2) + "\n")

    def _results(self, description: Description) -> dict[str, Any]:
        """The results in the file, or none, with what they are results of."""
        settings = {key: value for key, value in self.settings.items() if key not in FREE}
        measured = {
            "checkpoint": {
                "file": str(description.path),
                "sha256": [sha256_of(file) for file in files_of(description.path)],
                **{key: value for key, value in description.training.items() if key != "config"},
            },
            "settings": settings,
            "machine": machine(),
        }
        file = self.folder / RESULTS_FILE
        if not file.is_file():
            return {**measured, "guides": {}, "cells": {}}
        earlier = json.loads(file.read_text(encoding="utf-8"))
        if changed := [key for key, value in settings.items() if earlier["settings"].get(key) != value]:
            raise ValueError(f"{file} was measured with another {', '.join(changed)}; give another out=")
        if earlier["checkpoint"]["sha256"] != measured["checkpoint"]["sha256"]:
            raise ValueError(f"{file} was measured with other weights than {description.path}; give another out=")
        return {**earlier, **measured}


def interval(drawn: Float[Tensor, "draws"]) -> dict[str, float]:
    """The ends of a bootstrap interval."""
    low, high = percentile_interval(drawn)
    return {"low": low, "high": high}


def cell_of(record: Mapping[str, Any]) -> Cell:
    """The cell that a record is of."""
    return Cell(**{field.name: record[field.name] for field in fields(Cell)})


def read_originals(settings: Mapping[str, Any], description: Description, extract: Extract) -> Portraits:
    """The validation images, with their groups as designs.

    Raises:
        ValueError: images that cannot be read or grouped, or a model of other images than RGB.
    """
    image = description.model.image
    if image.channels != 3:
        raise ValueError(f"features are taken of RGB images, and {description.path} makes images of one channel")
    shards = any(Path(settings["data"]).glob("*.tar"))
    source = (WebDatasetSource if shards else FolderSource)(settings["data"], image.size)
    chosen = ChosenImages(source, count=settings["images"])
    if len(chosen) < LEAST_IMAGES:
        raise ValueError(f"{settings['data']} has {len(chosen)} validation images; KID needs at least {LEAST_IMAGES}")
    group_of = read_group_of(settings)
    names = [group_of(name) for name in chosen.names]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    pixels = chosen.batch(0, len(chosen))
    return Portraits(pixels, extract(pixels), torch.tensor([numbers[name] for name in names]))


def read_group_of(settings: Mapping[str, Any]) -> Callable[[str], str]:
    """From the name of an image to that of its group.

    Raises:
        ValueError: the data say nothing of designs.
    """
    if settings["groups"] == "image":
        return lambda name: name
    if settings["groups"] == "folder":
        return lambda name: str(Path(name).parent)
    script = Path(settings["data"]) / "build.py"
    if not script.is_file():
        raise ValueError(f"groups=design needs {script}, which tells designs apart; take groups=folder or groups=image")
    design_of = read_design_of(script)
    return lambda name: design_of(name.rpartition(":")[2])


def measure_all(measurement: Measurement) -> None:
    """Measures the cells that are asked for and not there yet, and draws what is there after each block."""
    sde, done = measurement.denoiser.sde, measurement.results["cells"]
    plan = [cell for cell in planned(measurement.settings, sde) if cell.name not in done]
    edits, left = len(measurement.originals), sum(evaluations_of(cell, sde) for cell in plan)
    print(f"{len(plan)} cells to measure, {left} evaluations of the network for each of {edits} edits", flush=True)
    began, spent = time.perf_counter(), 0
    for _, cells in groupby(plan, key=lambda cell: (cell.block, cell.early)):
        for cell in cells:
            record = measurement.measure(cell)
            spent += evaluations_of(cell, sde)
            hours = (time.perf_counter() - began) / spent * (left - spent) / 3600
            print(
                f"{cell.name}: KID {record['kid']['value']:.3f}, L2 {record['l2']['value']:.1f}, "
                f"{record['seconds_per_edit']:.2f} s an edit; about {hours:.1f} h left",
                flush=True,
            )
        measurement.draw()
    if not plan:
        measurement.draw()


def run(settings: dict[str, Any]) -> str:
    """Runs the measurement and returns its report."""
    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    measurement = Measurement(settings)
    measure_all(measurement)
    return f"{report(measurement.results)}\nnumbers, plots and sheets: {settings['out']}"


def main(arguments: list[str]) -> int:
    """Runs the measurement and returns the exit code."""
    return run_command(arguments, COMMAND, lambda parsed: run(as_data(parsed)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
