"""The report of `portraits64.py`: its tables in Markdown, its pictures as sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from sdedit_pl.metrics.distances import squared_l2
from sdedit_pl.picture_grid import grid, to_picture
from sdedit_pl.typing import Images

if TYPE_CHECKING:
    from portraits64 import Closeness

EDITS_SHOWN = 16
NEIGHBOURS_SHOWN = 6
CELL, CAPTION = 144, 16
OTHERS = ("guide", "original")


def report(numbers: Mapping[str, Any]) -> str:
    """The numbers as Markdown."""
    blocks = ["# A portraits64 model, measured", origin(numbers)]
    blocks.append(
        table(
            ["images", "KID to val", "KID to train", "KID to val, all pairs", "L2 (RMS) to strokes", "... to original"],
            [
                [
                    name,
                    *(estimate(found, key) for key in ("kid_to_val", "kid_to_train", "kid_to_val_all_pairs")),
                    *(f"{found[f'squared_l2_to_{to}']:.1f} ({found[f'rms_to_{to}']:.3f})" for to in OTHERS),
                ]
                for name, found in numbers["sets"].items()
            ],
        )
    )
    blocks.append(
        table(
            ["two halves of train", "KID, mean and deviation over splits"],
            [
                [how, f"{found['mean']:.3f} ± {found['deviation']:.3f}"]
                for how, found in numbers["train_halves"].items()
            ],
        )
    )
    blocks.append(
        table(
            [
                "nearest training image of",
                "L2, median (least)",
                "cosine, median (largest)",
                "nearer than its own original's",
                "nearer than any original's",
            ],
            [
                [
                    name,
                    f"{found['l2_median']:.0f} ({found['l2_least']:.0f})",
                    f"{found['cosine_median']:.3f} ({found['cosine_largest']:.3f})",
                    f"{found['share_nearer_than_own_original']:.0%}",
                    f"{found['share_nearer_than_any_original']:.0%}",
                ]
                for name, found in numbers["nearest_train"].items()
            ],
        )
    )
    return "\n\n".join(blocks) + "\n"


def origin(numbers: Mapping[str, Any]) -> str:
    """What was measured and how, in a sentence or two."""
    checkpoint, settings = numbers["checkpoint"], numbers["settings"]
    images, seconds = numbers["images"], numbers["seconds"]
    return (
        f"`{checkpoint['file']}` (sha256 `{checkpoint['sha256'][:16]}`): step {checkpoint.get('steps', 'unknown')}, "
        f"{checkpoint.get('images_seen', 'unknown')} images seen, {checkpoint['parameters']} parameters. "
        f"Strokes of {images['val']} validation images, edited in {settings['steps']} steps of {settings['solver']} on "
        f"the grid {settings['grid']}; {images['train']} training images; features of {settings['features']}. "
        f"It took {seconds['editing']:.0f} s to edit, {seconds['all']:.0f} s in all."
    )


def estimate(found: Mapping[str, Any], key: str) -> str:
    """A value and its standard error, or a dash where there is none."""
    return f"{found[key]['value']:.3f} ± {found[key]['error']:.3f}" if key in found else "-"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows))


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` numbers below `count`, evenly spread: a choice that does not look at results."""
    wanted = min(wanted, count)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]


def edit_sheet(val: Images, guides: Images, edits: Mapping[str, Images], folder: Path) -> None:
    """Draws originals, their strokes and their edits at each t0 into `folder`/edits.png."""
    sets = {"original": val, "strokes": guides, **{f"t0={t0}": images for t0, images in edits.items()}}
    rows = [[to_picture(images[index]) for images in sets.values()] for index in spread(len(val), EDITS_SHOWN)]
    grid(rows, list(sets), 128, columns=2).save(folder / "edits.png")


def neighbour_sheet(
    val: Images, guides: Images, edits: Images, near: Closeness, near_val: Closeness, file: Path
) -> None:
    """Draws edits beside the training images that are nearest to them, and to their originals, into `file`."""
    to_original = squared_l2(edits, val)
    rows = [
        [
            captioned(val[index]),
            captioned(guides[index]),
            captioned(edits[index], f"to original: L2 {to_original[index].item():.0f}"),
            captioned(near.by_pixels[index], f"to edit: L2 {near.l2[index].item():.0f}"),
            captioned(near.by_features[index], f"to edit: cosine {near.cosine[index].item():.3f}"),
            captioned(near_val.by_pixels[index], f"to original: L2 {near_val.l2[index].item():.0f}"),
        ]
        for index in spread(len(val), NEIGHBOURS_SHOWN)
    ]
    titles = ["original", "strokes", "edit", "train: nearest by pixels", "train: by features", "train: to the original"]
    grid(rows, titles, CELL).save(file)


def captioned(image: Float[Tensor, "C H W"], text: str = "") -> Image.Image:
    """A picture with a line of text below."""
    picture = Image.new("RGB", (CELL, CELL), "white")
    side = CELL - CAPTION
    picture.paste(to_picture(image).convert("RGB").resize((side, side), Image.Resampling.BICUBIC), (0, 0))
    ImageDraw.Draw(picture).text((2, side + 2), text, fill="black")
    return picture
