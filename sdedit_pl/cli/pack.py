"""`sdedit pack`: turn images into shards."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

from sdedit_pl.cli import counted, say
from sdedit_pl.configuration.help_text import shown
from sdedit_pl.configuration.schema import Command
from sdedit_pl.data.pack_settings import PackSettings
from sdedit_pl.data.shard_manifest import MANIFEST_FILE

USAGE = """sdedit pack data=FOLDER|ARCHIVE|torchvision:NAME out=FOLDER size=PIXELS [key=value ...]

Resizes images and writes them to WebDataset shards with a manifest. Run the same command again to resume an interrupted
pack. Train on the shards with data.name=webdataset data=FOLDER."""

COMMAND = Command(USAGE, PackSettings)

# How many unreadable images and duplicates the console names; the manifest has all of them.
_NAMED = 5


def run(words: list[str]) -> None:
    arguments = COMMAND.parse(words)
    from tqdm import tqdm  # imported here, because they load PyTorch, which help does not need

    from sdedit_pl.data.shard_packing import pack

    with tqdm(unit="image", desc="packing", disable=None) as progress:

        def advance(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        manifest = pack(arguments, advance)
    say("\n".join(manifest_summary(manifest, arguments)))


def manifest_summary(manifest: dict[str, Any], settings: PackSettings) -> list[str]:
    lines = [
        f"{split}: {counted(facts['images'], 'image')} in {counted(len(facts['shards']), 'shard')}"
        for split, facts in manifest["splits"].items()
    ]
    total = manifest["source"]["images"]
    broken = [entry["reason"] for entry in manifest["broken"]]
    duplicates = [f"{entry['name']} = {entry['equals']}" for entry in manifest["duplicates"]]
    for found, text in ((broken, "cannot be read and were left out"), (duplicates, "equal an earlier one")):
        if found:
            lines += [f"{len(found)} of {counted(total, 'image')} {text}:", *(f"  {line}" for line in found[:_NAMED])]
        if len(found) > _NAMED:
            lines.append(f"  ... all of them: {settings.out}/{MANIFEST_FILE}")
    words = ["data.name=webdataset", f"data={settings.out}", f"data.size={shown(settings.size)}"]
    words += [f"data.random_crop={settings.margin_pixels}"] if settings.fit == "random_crop" else []
    words += [] if settings.labels is None else ["data.labels=json:label"]
    words += [] if settings.channels == 3 else [f"data.channels={settings.channels}"]
    if settings.format is not None:
        described = asdict(settings.format).items()
        words += [f"data.format.{key}={shown(value)}" for key, value in described if value or key == "dtype"]
    return [*lines, f"train with: {shlex.join(words)}"]
