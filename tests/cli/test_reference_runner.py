"""Compatibility with SDEdit's reference runner: its checkpoint, its files, its numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.recorded_noise import RecordedNoise

from sdedit_pl.checkpoints.loading import load_for_editing
from sdedit_pl.cli import main
from sdedit_pl.cli.edit import COMMAND
from sdedit_pl.edit_runs.edit_plan import build_edits
from sdedit_pl.guides import tensor_checks
from sdedit_pl.guides.guide_files import read_guides
from sdedit_pl.guides.mask_files import read_area
from sdedit_pl.picture_grid import to_picture

RUNS = ("edit_masked", "edit_unmasked")
DOCUMENT = Path(__file__).parents[2] / "docs" / "reference_runner.md"


def recorded(folder: Path, run: str) -> dict[str, torch.Tensor]:
    with np.load(folder / "sdedit_ddpm" / f"{run}.npz") as archive:
        return {key: torch.from_numpy(np.asarray(value)) for key, value in archive.items()}


@pytest.fixture
def runner(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the runner's checkpoint, imported, and the file of each of its images."""
    monkeypatch.chdir(tmp_path)
    folder = reference / "sdedit_ddpm"
    source, config = folder / "edit_model.safetensors", folder / "config.json"
    assert main(["import", f"ckpt={source}", f"config={config}", "format=ddim", "out=model.safetensors"]) == 0
    for run in RUNS:
        data = recorded(reference, run)
        for index, image in enumerate(data["guide"]):
            torch.save([data["mask"], image], f"{run}_{index}.pth")
    return tmp_path


def arguments(data: dict[str, torch.Tensor], guide: str) -> list[str]:
    """The runner's --t, --sample_step and --npy_name as docs/reference_runner.md translates them."""
    t, repeats = int(data["t"]), int(data["repeats"])
    return [
        "ckpt=model.safetensors",
        f"guide={guide}",
        f"t0={t / 1000}",
        f"steps={t}",
        f"repeats={repeats}",
        "variant=reference",
    ]


@pytest.mark.parametrize("run", RUNS)
def test_edits_are_the_runners_numbers(run: str, runner: Path, reference: Path) -> None:
    """Everything except the noise comes from the functions behind `sdedit edit`."""
    data = recorded(reference, run)
    parsed = COMMAND.parse(arguments(data, f"{run}_*.pth"))
    denoiser, description = load_for_editing(parsed.ckpt, "cpu")
    guides = read_guides(parsed.guide, description.image)
    masks = [mask for guide in guides if (mask := read_area("mask", None, guide)) is not None]
    samples = build_edits(parsed)[0](
        denoiser,
        torch.cat([guide.image for guide in guides]),
        edit_mask=torch.cat(masks),
        noise=RecordedNoise(list(data["noise"])),
    )
    torch.testing.assert_close(samples, data["samples"][-1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("run", RUNS)
def test_the_command_writes_the_runners_pictures(
    run: str, runner: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command with the recorded noise of the runner, to one level of 255."""
    data = recorded(reference, run)
    monkeypatch.setattr(
        tensor_checks, "SeededNoise", lambda seeds, _: RecordedNoise([z[: len(seeds)] for z in data["noise"]])
    )
    assert main(["edit", *arguments(data, f"{run}_0.pth"), "samples=1", "device=cpu", "out=edited"]) == 0
    found = np.asarray(Image.open(runner / "edited" / f"{run}_0_seed0.png")).astype(int)
    expected = np.asarray(to_picture(data["samples"][-1][0])).astype(int)
    assert np.abs(found - expected).max() <= 1


def test_a_given_mask_replaces_the_mask_of_the_file(runner: Path, reference: Path, command: Callable[..., Any]) -> None:
    kept = np.zeros((16, 16), dtype=np.uint8)
    kept[:, :4] = 255
    Image.fromarray(kept).save("mask.png")
    edit = ("edit", "ckpt=model.safetensors", "guide=edit_unmasked_0.pth", "steps=2", "samples=1", "device=cpu")
    assert command(*edit, "mask=mask.png", "out=given").code == 0
    original = to_picture(recorded(reference, "edit_unmasked")["guide"][0] * 2 - 1)
    found = np.asarray(Image.open("given/edit_unmasked_0_seed0.png"))
    assert np.array_equal(found[:, 4:], np.asarray(original)[:, 4:])
    assert not np.array_equal(found[:, :4], np.asarray(original)[:, :4])


def test_a_file_of_another_size_is_refused(refused: Callable[..., str]) -> None:
    torch.save([torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)], "small.pth")
    message = refused("edit", "ckpt=tiny.safetensors", "guide=small.pth")
    assert "must be floats of shape (3, 16, 16)" in message and "PNG" in message


def test_every_flag_of_the_runner_is_in_the_table() -> None:
    flags = ("config", "seed", "exp", "comment", "verbose", "sample", "i", "ni", "npy_name", "sample_step", "t")
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `-")]
    assert [re.findall(r"`--?(\w+)", row)[0] for row in rows] == list(flags)


def test_the_documents_keys_are_ours() -> None:
    """Each `key=value` in the document is accepted by `sdedit edit` or `sdedit import`."""
    from sdedit_pl.cli.import_ import COMMAND as IMPORT

    text = DOCUMENT.read_text()
    for line in re.findall(r"^sdedit (?:edit|import) .*$", text, re.MULTILINE):
        verb, *rest = line.removeprefix("sdedit ").split()
        (COMMAND if verb == "edit" else IMPORT).parse(rest)
