"""`sdedit pack`: turn images into shards."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from sdedit_pl.cli import say
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.data.shard_manifest import MANIFEST_FILE
from sdedit_pl.data.shard_packing import PackSettings, pack

USAGE = """sdedit pack src=FOLDER|ARCHIVE|torchvision:NAME out=FOLDER size=PIXELS [key=value ...]

Brings images to one size and writes them to WebDataset shards, with a manifest. The same command goes on where it was
interrupted. Train on them with data.name=webdataset data.path=FOLDER."""

# Broken originals and duplicates that are named on the console; the manifest has them all.
_NAMED = 5


COMMAND = Command(USAGE, PackSettings)


def run(words: list[str]) -> None:
    """Packs, and says what came of it."""
    arguments = COMMAND.parse(words)
    with tqdm(unit="image", desc="packing", disable=None) as progress:

        def advance(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        manifest = pack(arguments, advance)
    say("\n".join(summary(manifest, arguments.out)))


def summary(manifest: dict[str, Any], out: str) -> list[str]:
    """What a manifest says, in a few lines."""
    lines = [
        f"{split}: {facts['images']} images in {len(facts['shards'])} shards"
        for split, facts in manifest["splits"].items()
    ]
    for found, what in (("broken", "cannot be read and were left out"), ("duplicates", "equal an earlier one")):
        entries = manifest[found]
        if entries:
            lines.append(f"{len(entries)} of {manifest['source']['images']} images {what}:")
            lines += [
                f"  {entry.get('reason') or entry['name'] + ' = ' + entry['equals']}" for entry in entries[:_NAMED]
            ]
            lines += [f"  ... all of them: {out}/{MANIFEST_FILE}"] if len(entries) > _NAMED else []
    settings = manifest["settings"]
    margin = settings["size"] // 8 if settings["margin"] is None else settings["margin"]
    crop = f" data.random_crop={margin}" if settings["fit"] == "random_crop" else ""
    lines.append(f"train with: data.name=webdataset data.path={out} data.size={settings['size']}{crop}")
    return lines
