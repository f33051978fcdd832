"""Trains on domains of 16 bits, of four bands and of two classes, edits, and tabulates what the edits keep.

    python benchmarks/any_image.py out=outputs/any_image

- `phantoms`: rectangles of 96 x 64 pixels, grey uint16, in NIfTI files with an affine;
- `fields`: four bands of float32 reflectances in GeoTIFF files with coordinates and names of bands;
- `shapes`: two classes from two folders; one guide is edited into either.

The images are drawn here; guides have one flat value for each part. The same command resumes trainings.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from benchmark_command import Results, refuse_unknown, run_benchmark
from PIL import Image

from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.data.image_format import ImageShape, PixelFormat
from sdedit_pl.data.value_decoding import read_values
from sdedit_pl.evaluation.report_document import Table, markdown_table
from sdedit_pl.picture_grid import picture_grid, to_picture

USAGE = """python benchmarks/any_image.py [key=value ...]

Trains on domains of 16 bits, of four bands and of two classes, edits, and tabulates what the edits keep."""
TRAINING = (
    "seed=0 data.flip=false data.batch_size=16 sde=ve sde.sigma_min=0.01 sde.sigma_max=50 network.channels=24 "
    "network.channel_multipliers=[1,2,2] network.blocks_per_level=1 network.attention_levels=[] network.patch=2 "
    "network.refine=8 times.mean=-0.8 times.deviation=1.4 optimizer=muon optimizer.rate=2e-3 schedule=trapezoid "
    "schedule.warmup_steps=50 schedule.decay_steps=300 average.half_life_images=3000 trainer.val_check_interval=1000 "
    "checkpoint.dtype=float16 checkpoint.export=last preview.samples=0 preview.count=0 validation.memory_images=0 "
    "compile=false"
)
CELL = 144
CROPS = np.array([(0.22, 0.17, 0.12, 0.28), (0.1, 0.12, 0.06, 0.35), (0.04, 0.08, 0.03, 0.5), (0.03, 0.05, 0.06, 0.02)])
"""Reflectances of soil, a young crop, a grown crop and water in red, green, blue and infrared."""


class Part(NamedTuple):
    """An ellipse or rectangle."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    angle: float = 0.0

    def mask(self, sides: tuple[int, int], *, flat: bool) -> np.ndarray:
        """True inside; `flat` draws the rectangle of the same area."""
        y, x = np.mgrid[: sides[0], : sides[1]] - np.reshape(self.centre, (2, 1, 1))
        down = (y * np.cos(self.angle) + x * np.sin(self.angle)) / self.radii[0]
        across = (x * np.cos(self.angle) - y * np.sin(self.angle)) / self.radii[1]
        return np.maximum(abs(down), abs(across)) < np.pi**0.5 / 2 if flat else down**2 + across**2 < 1


def phantom(random: np.random.Generator, flat: bool, _: str) -> np.ndarray:
    """A head with a bright rim and two dark chambers, 96 x 64, uint16."""
    centre = 48 + random.uniform(-3, 3), 32 + random.uniform(-2, 2)
    radii, angle = (random.uniform(36, 42), random.uniform(23, 28)), random.uniform(-0.1, 0.1)
    image = np.full((96, 64), 800.0)
    inner = radii[0] - 4, radii[1] - 4
    parts = [(Part(centre, radii, angle), 48_000), (Part(centre, inner, angle), 24_000)]
    for side in (-1, 1):
        place = centre[0] - 4, centre[1] + side * random.uniform(6, 8)
        parts.append((Part(place, (random.uniform(9, 14), 3.5), side * 0.25), 9_000))
    for part, value in parts:
        image[part.mask(image.shape, flat=flat)] = value
    image += 0 if flat else random.normal(0, 700, image.shape)
    return image.clip(0, 65535).round().astype(np.uint16)[..., None]


def field_image(random: np.random.Generator, flat: bool, _: str) -> np.ndarray:
    """Strips of soil and crops in rows, with a lake, 48 x 48, float32."""
    y, x = np.mgrid[:48, :48].astype(float)
    angle = random.uniform(-0.4, 0.4)
    across = y * np.cos(angle) - x * np.sin(angle)
    edges = np.cumsum(random.uniform(9, 18, 12)) - 50
    kinds = random.permutation(np.arange(12) % 3)
    strip = np.searchsorted(edges, across).clip(0, 11)
    image = CROPS[kinds[strip]]
    if not flat:
        rows = 1 + 0.25 * np.sin(2 * np.pi * across / 4) * (kinds[strip] > 0)
        image = image * rows[..., None]
    lake = Part((random.uniform(10, 38), random.uniform(10, 38)), (random.uniform(6, 10), random.uniform(6, 10)), angle)
    image[lake.mask((48, 48), flat=flat)] = CROPS[3]
    return (image if flat else image * random.normal(1, 0.03, image.shape)).astype(np.float32)


def shape_image(random: np.random.Generator, flat: bool, label: str) -> np.ndarray:
    """A shaded ellipse or rectangle on a plain ground, 32 x 32, 8-bit RGB; with `flat`, an even shape in between."""
    y, x = np.mgrid[:32, :32].astype(float)
    colour, ground = random.uniform(90, 230, 3), random.uniform(20, 70, 3)
    down, across = (abs(axis - random.uniform(14, 18)) / random.uniform(8, 11) for axis in (y, x))
    disc, box = down**2 + across**2, np.maximum(down, across)
    inside = disc + box < 2.3 if flat else (box if label == "square" else disc) < 1
    light = 1 if flat else 1.1 - 0.4 * (x + y)[..., None] / 64
    image = np.where(inside[..., None], colour * light, ground)
    return (image + (0 if flat else random.normal(0, 3, image.shape))).clip(0, 255).round().astype(np.uint8)


def save_phantom(file: Path, values: np.ndarray) -> None:
    import nibabel

    affine = np.array([[1.8, 0, 0, -86], [0, 1.8, 0, -57], [0, 0, 5, 12], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values[..., 0], affine, dtype=np.uint16), file)


def save_field(file: Path, values: np.ndarray) -> None:
    import rasterio.transform

    place = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(500_000, 5_800_000, 10, 10)}
    shape = {"height": values.shape[0], "width": values.shape[1], "count": values.shape[2]}
    with rasterio.open(file, "w", driver="GTiff", dtype="float32", **shape, **place) as opened:
        opened.write(values.transpose(2, 0, 1))
        for number, name in enumerate(("red", "green", "blue", "infrared"), 1):
            opened.set_band_description(number, name)


def save_picture(file: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(file)


@dataclass(frozen=True)
class Domain:
    """A domain: how its images are drawn, written, trained on and edited."""

    draw: Callable[[np.random.Generator, bool, str], np.ndarray]
    save: Callable[[Path, np.ndarray], None]
    suffix: str
    shape: ImageShape
    training: str
    t0: str
    steps: int
    labels: tuple[str, ...] = ("",)
    """Folders of the classes; an empty name for a domain without classes."""


DOMAINS = {
    "phantoms": Domain(
        phantom,
        save_phantom,
        ".nii",
        ImageShape((96, 64), 1, format=PixelFormat("uint16", range=(0.0, 65535.0))),
        "data.size=96,64 data.channels=1 data.format.dtype=uint16 augment.symmetries=[mirror]",
        "sigma:2",
        500,
    ),
    "fields": Domain(
        field_image,
        save_field,
        ".tif",
        ImageShape(48, 4, format=PixelFormat("float32", range=(0.0, 0.6), shown=(3, 0, 1))),
        "data.size=48 data.channels=4 data.format.dtype=float32 data.format.bands=[red,green,blue,infrared] "
        "data.format.shown=[3,0,1]",
        "sigma:0.5",
        1500,
    ),
    "shapes": Domain(
        shape_image,
        save_picture,
        ".png",
        ImageShape(32, 3),
        "data.size=32 data.labels=folders",
        "sigma:1.2",
        2000,
        ("round", "square"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Arguments(Results):
    """The domains and their training.

    Args:
        domains: some of phantoms, fields, shapes.
        images: number of images of a domain.
        steps: steps of each training; null for those of the domain.
        guides: number of guides.
        guidance: classifier-free guidance of the classes.
        runs: folder of the images and the trainings.
    """

    domains: tuple[Literal["phantoms", "fields", "shapes"], ...] = ("phantoms", "fields", "shapes")
    images: int = 1000
    steps: int | None = None
    guides: int = 3
    guidance: float = 2.0
    runs: str = "runs/any_image"
    out: str = "outputs/any_image"

    def __post_init__(self) -> None:
        require_at_least(self, images=20, steps=1, guides=1)
        refuse_unknown("domains", self.domains, DOMAINS)


def sdedit(*words: str) -> None:
    if subprocess.run([sys.executable, "-m", "sdedit_pl", *words], check=False).returncode:
        raise ValueError(f"this command failed: sdedit {shlex.join(words)}")


def draw(domain: Domain, folder: Path, count: int, *, flat: bool) -> None:
    """Draws images into `folder`, those of a class into a folder of its name; guides, which are flat, have no class."""
    for number in range(count):
        label = "" if flat else domain.labels[number % len(domain.labels)]
        file = folder / label / f"{number:04}{domain.suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        domain.save(file, domain.draw(np.random.default_rng([number, flat]), flat, label))


def measure(arguments: Arguments) -> dict[str, Any]:
    domains, pictures = {}, {}
    for name in arguments.domains:
        domain, runs = DOMAINS[name], Path(arguments.runs) / name
        draw(domain, runs / "images", arguments.images, flat=False)
        draw(domain, runs / "guides", arguments.guides, flat=True)
        words = [*TRAINING.split(), *domain.training.split(), f"trainer.max_steps={arguments.steps or domain.steps}"]
        sdedit("train", f"data={runs / 'images'}", f"out={runs / 'run'}", *words)
        rows: dict[str, list[Path]] = {"domain": sorted((runs / "images").rglob(f"*{domain.suffix}"))}
        rows["guide"] = sorted((runs / "guides").iterdir())
        for label in domain.labels:
            out = runs / f"edits{label and '-' + label}"
            given = [f"label={label}", f"guidance={arguments.guidance}"] if label else []
            place = [f"ckpt={runs / 'run'}", f"guide={runs / 'guides'}", f"out={out}", "overwrite=true"]
            sdedit("edit", *place, f"t0={domain.t0}", "samples=1", "steps=30", *given)
            rows[f"edit{label and ', ' + label}"] = sorted(out.glob(f"*_seed*{domain.suffix}"))
        count = arguments.guides
        rows["domain"] = [rows["domain"][number * len(rows["domain"]) // count] for number in range(count)]
        pictures[name] = sheet(rows, domain.shape)
        domains[name] = {
            "t0": domain.t0,
            "steps": arguments.steps or domain.steps,
            "files": {title: facts(files[0]) for title, files in rows.items()},
        }
        if len(domain.labels) > 1:
            shapes = {title: files for title, files in rows.items() if title != "domain"}
            domains[name]["filled"] = {title: float(np.mean([*map(filled, files)])) for title, files in shapes.items()}
    return {"domains": domains, "pictures": pictures}


def sheet(rows: dict[str, list[Path]], shape: ImageShape) -> Image.Image:
    def picture(file: Path) -> Image.Image:
        values = torch.tensor(read_values(file, file.name).values).permute(2, 0, 1)
        return to_picture(shape.images(values[None])[0], shape.format)

    found = [[picture(file) for file in files] for files in rows.values()]
    return picture_grid(found, [""] * max(map(len, found)), CELL, row_titles=list(rows))


def facts(file: Path) -> list[str]:
    """Shape, type and range of a file's values, how many are distinct, and its metadata."""
    stored = read_values(file, file.name)
    values, place = stored.values, ""
    if file.suffix == ".nii":
        place = "affine " + " ".join(f"{number:g}" for number in stored.metadata[0].flatten())
    elif file.suffix == ".tif":
        profile = stored.metadata["profile"]
        place = f"{profile['crs']}, {profile['transform'].to_gdal()}, {', '.join(map(str, stored.metadata['bands']))}"
    range_ = f"{values.min():.6g} to {values.max():.6g}"
    return [" x ".join(map(str, values.shape)), str(values.dtype), range_, f"{len(np.unique(values)):,}", place]


def filled(file: Path) -> float:
    """Share of its bounding box that the part brighter than mid-range fills: pi / 4 for an ellipse, 1 for a square."""
    grey = read_values(file, file.name).values.astype(float).mean(-1)
    inside = grey > (grey.min() + grey.max()) / 2
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    return inside.sum() / (rows * columns)


def report(numbers: dict[str, Any]) -> str:
    parts = []
    for name, domain in numbers["domains"].items():
        rows = [[title, *found] for title, found in domain["files"].items()]
        table = markdown_table(Table(["file", "shape", "type", "range", "distinct values", "metadata"], rows))
        how = f"{domain['steps']:,} steps; edits from t0 = {domain['t0']}."
        parts.append(f"## {name}\n\n{how}\n\n![{name}]({name}.png)\n\n{table}\n")
        if "filled" in domain:
            shares = "; ".join(f"{title} {share:.3f}" for title, share in domain["filled"].items())
            parts.append(f"Mean share of its bounding box that the object fills (a disc: 0.785): {shares}.\n")
    settings = numbers["settings"]
    return f"""# Rectangles, 16 bits, four bands, two classes

`benchmarks/any_image.py` draws {settings["images"]} images of each domain, trains a network of 0.7 M parameters in
batches of 16, and edits guides that have one flat value for each part. The tables show the
first file of each row of the pictures.

""" + "\n".join(parts)


if __name__ == "__main__":
    sys.exit(run_benchmark(sys.argv[1:], Command(USAGE, Arguments), measure, report))
