"""`sdedit demo`: edit the bundled guides with the bundled model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdedit_pl.cli import say
from sdedit_pl.configuration import ConfigError, require_at_least
from sdedit_pl.configuration.schema import Command
from sdedit_pl.result_folder import refuse_replacing, result_folder

if TYPE_CHECKING:
    from PIL import Image

USAGE = "sdedit demo [key=value ...]\n\nEdits the bundled guides with the bundled model, in a checkout of the project."


@dataclass
class Arguments:
    """The demonstration.

    Args:
        out: PNG file of the resulting picture.
        ckpt: the model's checkpoint.
        guide: folder of guides.
        mask: folder of masks, named like their guides.
        t0: time or noise level at which the reverse process starts.
        steps: number of solver steps; null for the default.
        samples: number of samples per guide.
        columns: number of guides per row of the picture; null for 2 to 4, whichever leaves fewest cells empty.
        device: auto, cpu, cuda or mps.
        overwrite: replace the picture.
    """

    out: str = "outputs/demo.png"
    ckpt: str = "portraits64"
    guide: str = "data/guides"
    mask: str = "data/masks"
    t0: float | str = 0.5
    steps: int | None = None
    samples: int = 2
    columns: int | None = None
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, samples=1, columns=1)


COMMAND = Command(USAGE, Arguments)


def run(words: list[str]) -> None:
    arguments = COMMAND.parse(words)
    out = Path(arguments.out)
    if out.is_dir():
        raise ConfigError(f"out={out} is a folder; name a PNG file in it")
    if not Path(arguments.guide).exists():
        raise ConfigError(f"the demo's guides are in a checkout of the project: there is no {arguments.guide} here")
    with result_folder(out.parent, out.name, {out.name} if arguments.overwrite else None) as results:
        refuse_replacing(out, arguments.overwrite)
        edited_guides(arguments).save(results / out.name, format="PNG")
    say(f"guides and their edits: {out}")


def edited_guides(arguments: Arguments) -> Image.Image:
    from tqdm import tqdm

    from sdedit_pl.checkpoints.loading import load_for_editing
    from sdedit_pl.editing import SDEdit
    from sdedit_pl.editing.contact_sheets import demo_sheet
    from sdedit_pl.editing.many_guides import edit_guides
    from sdedit_pl.guides.guide_files import read_guides
    from sdedit_pl.guides.mask_files import find_areas, read_area

    edit, seeds = SDEdit(t0=arguments.t0, steps=arguments.steps), range(arguments.samples)
    denoiser, description = load_for_editing(arguments.ckpt, arguments.device)
    guides = read_guides(arguments.guide, description.image)
    masks = find_areas("mask", arguments.mask, [guide.path for guide in guides])
    areas = [read_area("mask", mask, guide) for mask, guide in zip(masks, guides, strict=True)]
    total = len(guides) * len(seeds) * edit.total_steps(denoiser.sde)
    with tqdm(total=total, unit="step", desc="editing", disable=None) as progress:
        edits = list(edit_guides(denoiser, edit, guides, areas, seeds, on_step=progress.update))
    return demo_sheet(edits, arguments.t0, arguments.columns)
