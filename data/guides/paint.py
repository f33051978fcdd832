"""Make the bundled guides, masks, strength maps and objects: what the project's examples edit.

Three kinds, as an editor makes them by hand:

- a stroke painting: a portrait painted from scratch on white (`portraits.py`);
- a stroke edit: thick strokes over a picture of the validation split; its mask is the painted region, grown;
- a composite: a patch cut roughly out of one picture of the validation split and laid on another; its mask is
  the patch, grown.

Masks are white where the picture may change. A strength map is the mask of a stroke edit that fades out around it, an
object the patch of a composite by itself. Same code, same shards, same pictures, bit for bit.

Run:
    python data/guides/paint.py
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from brush import Brush, Point, smooth_path
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from portraits import PORTRAITS

DATA = Path(__file__).resolve().parent.parent
SEED = 2022
SIZE = 64
GROWTH = 3  # pixels, of 64, that a mask reaches beyond what was painted or pasted
FADE = 6  # pixels, of 64, of the blur that a strength map fades with

# fmt: off
COAT = [
    (0.5, 0.56), (0.66, 0.57), (0.81, 0.65), (0.87, 0.8), (0.87, 0.88), (0.68, 0.92),
    (0.5, 0.94), (0.32, 0.92), (0.13, 0.88), (0.13, 0.8), (0.19, 0.65), (0.34, 0.57),
]
CROWN = [(0.24, 0.12), (0.36, 0.13), (0.5, 0.04), (0.64, 0.13), (0.76, 0.12), (0.7, 0.25), (0.3, 0.25)]
EYE_MASK = [
    (0.26, 0.1), (0.4, 0.16), (0.6, 0.16), (0.74, 0.1),
    (0.7, 0.28), (0.58, 0.33), (0.42, 0.33), (0.3, 0.28),
]
CURLS = [
    (0.06, 0.34), (0.12, 0.1), (0.5, 0.02), (0.88, 0.1), (0.95, 0.34),
    (0.86, 0.47), (0.74, 0.38), (0.5, 0.34), (0.28, 0.4), (0.14, 0.48),
]
# fmt: on


@dataclass(frozen=True)
class StrokeEdit:
    """Strokes over the picture `base` of the validation split."""

    base: str
    paint: Callable[[Brush], None]


@dataclass(frozen=True)
class Composite:
    """What lies inside the outline in picture `patch`, laid on the same place of picture `base`."""

    base: str
    patch: str
    outline: list[Point]


def hat(brush: Brush) -> None:
    """A red hat with a wide brim."""
    crown = [(0.33, 0.19), (0.35, 0.09), (0.42, 0.05), (0.58, 0.05), (0.65, 0.09), (0.67, 0.19)]
    brush.fill(crown, 0.1, (226, 52, 78))
    brush.stroke([(0.22, 0.21), (0.36, 0.18), (0.5, 0.175), (0.64, 0.18), (0.78, 0.21)], 0.085, (206, 42, 68))


def coat(brush: Brush) -> None:
    """A green coat with a yellow scarf."""
    brush.fill(COAT, 0.12, (62, 168, 92))
    brush.stroke([(0.5, 0.68), (0.5, 0.88)], 0.05, (42, 128, 80))
    brush.stroke([(0.37, 0.56), (0.5, 0.61), (0.63, 0.56)], 0.09, (248, 196, 70))
    brush.stroke([(0.57, 0.6), (0.6, 0.76)], 0.08, (240, 184, 60))


def beard(brush: Brush) -> None:
    """A brown full beard, a moustache and the mouth between them."""
    jaw = [(0.23, 0.6), (0.26, 0.76), (0.38, 0.87), (0.5, 0.88), (0.62, 0.87), (0.74, 0.76), (0.77, 0.6)]
    brush.stroke(jaw, 0.13, (112, 68, 54))
    brush.stroke([(0.37, 0.7), (0.5, 0.66), (0.63, 0.7)], 0.07, (100, 58, 48))


def hair(brush: Brush) -> None:
    """Orange hair, bobbed, over what was white."""
    for left in (True, False):
        locks = [(0.5, 0.12), (0.32, 0.17), (0.18, 0.32), (0.13, 0.55), (0.14, 0.74), (0.18, 0.88)]
        tips = [(0.19, 0.72), (0.22, 0.82), (0.3, 0.9)]
        for lock in (locks, tips):
            brush.stroke([(x if left else 1 - x, y) for x, y in lock], 0.13, (222, 108, 52))
    brush.stroke([(0.22, 0.36), (0.32, 0.28), (0.5, 0.25), (0.68, 0.29), (0.79, 0.37)], 0.14, (236, 128, 66))


STROKE_EDITS = {
    "hat": StrokeEdit("1f935-1f3fb-200d-2642-fe0f", hat),
    "coat": StrokeEdit("1f935-1f3fd", coat),
    "beard": StrokeEdit("1f468-1f3fb-200d-1f9b1", beard),
    "hair": StrokeEdit("1f469-1f3fc-200d-1f9b3", hair),
}

COMPOSITES = {
    "pasted_crown": Composite("1f487-1f3fc-200d-2640-fe0f", "1f478-1f3fd", CROWN),
    "pasted_mask": Composite("1f935-1f3fd", "1f9b9-1f3fb-200d-2642-fe0f", EYE_MASK),
    "pasted_hair": Composite("1f469-1f3fb", "1f9d1-1f3fd-200d-1f9b1", CURLS),
}


def read_validation_images(folder: Path) -> dict[str, Image.Image]:
    """Return the validation pictures by name from the shards in `folder`."""
    images = {}
    for shard in sorted(folder.glob("val-*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    images[Path(member.name).stem] = Image.open(io.BytesIO(file.read())).convert("RGB")
    if not images:
        raise ValueError(f"no val-*.tar in {folder}; build them with data/portraits64/build.py")
    return images


def grow(region: Image.Image) -> Image.Image:
    """Return the black and white mask that covers the region (any value above 0) and a margin around it."""
    growth = GROWTH * region.width // SIZE
    return region.point([0] + 255 * [255]).filter(ImageFilter.MaxFilter(2 * growth + 1))


def fade(mask: Image.Image) -> Image.Image:
    """Return the strength map that is white in the mask and falls to black around it."""
    reach = FADE * mask.width // SIZE
    return ImageChops.lighter(mask, mask.filter(ImageFilter.GaussianBlur(reach)))


def lay_over(base: Image.Image, layer: Image.Image) -> Image.Image:
    """Return the RGB picture with the RGBA layer on it."""
    canvas = base.convert("RGBA")
    canvas.alpha_composite(layer)
    return canvas.convert("RGB")


def paste(composite: Composite, images: dict[str, Image.Image], size: int) -> tuple[Image.Image, Image.Image]:
    """Return the composite and the region of the patch, cut with hard edges."""
    base = images[composite.base].resize((size, size), Image.Resampling.LANCZOS)
    patch = images[composite.patch].resize((size, size), Image.Resampling.LANCZOS)
    corners = smooth_path(composite.outline, closed=True) * size
    region = Image.new("L", (size, size), 0)
    ImageDraw.Draw(region).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    base.paste(patch, (0, 0), region)
    return base, region


def make_all(data: Path, size: int) -> None:
    """Write guides, masks, strength maps and objects to the folders of `data` of these names."""
    images = read_validation_images(data / "portraits64")
    guides, masks, strengths, objects = (data / name for name in ("guides", "masks", "strengths", "objects"))
    for folder in (masks, strengths, objects):
        folder.mkdir(exist_ok=True)
    white = Image.new("RGB", (size, size), "white")
    for number, (name, paint) in enumerate(PORTRAITS.items()):
        brush = Brush(SEED + number, size)
        paint(brush)
        lay_over(white, brush.layer()).save(guides / f"{name}.png", optimize=True)
    for number, (name, edit) in enumerate(STROKE_EDITS.items()):
        brush = Brush(SEED + 100 + number, size)
        edit.paint(brush)
        layer = brush.layer()
        base = images[edit.base].resize((size, size), Image.Resampling.LANCZOS)
        lay_over(base, layer).save(guides / f"{name}.png", optimize=True)
        mask = grow(layer.getchannel("A"))
        mask.save(masks / f"{name}.png", optimize=True)
        fade(mask).save(strengths / f"{name}.png", optimize=True)
    for name, composite in COMPOSITES.items():
        picture, region = paste(composite, images, size)
        picture.save(guides / f"{name}.png", optimize=True)
        grow(region).save(masks / f"{name}.png", optimize=True)
        patch = images[composite.patch].resize((size, size), Image.Resampling.LANCZOS)
        patch.putalpha(region)
        patch.crop(region.getbbox()).save(objects / f"{name.removeprefix('pasted_')}.png", optimize=True)


def main() -> None:
    """Parse the command line and make the pictures."""
    parser = argparse.ArgumentParser(description="Make the bundled guides and masks.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of portraits64, guides, masks")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels on a side; a multiple of 64")
    arguments = parser.parse_args()
    make_all(arguments.data, arguments.size)


if __name__ == "__main__":
    main()
