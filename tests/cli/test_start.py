"""Verbs start without the libraries that they do not use; one process runs them in turn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HEAVY = ("lightning", "torchmetrics", "torchvision", "scipy", "matplotlib", "wandb", "webdataset")
COMMANDS = {
    "edit": ("ckpt=tiny.safetensors", "guide=guide.png", "mask=mask.png", "steps=2", "samples=1", "out=edited"),
    "demo": ("ckpt=tiny.safetensors", "guide=guide.png", "mask=mask.png", "steps=2", "samples=1", "out=demo.png"),
    "sample": ("ckpt=tiny.safetensors", "n=2", "steps=2", "out=sampled"),
    "info": ("ckpt=tiny.safetensors",),
    "import": ("ckpt={ddim}/model.ckpt", "config={ddim}/config.json", "out=imported.safetensors"),
    "export": ("ckpt=tiny.safetensors", "format=torch_export", "out=model.pt2"),
}


def test_no_verb_imports_a_library_that_it_does_not_use(desk: Path, reference: Path) -> None:
    lines = [
        [verb, *(word.format(ddim=reference / "sdedit_ddpm") for word in words)] for verb, words in COMMANDS.items()
    ]
    program = (
        "import sys; from sdedit_pl.cli import main\n"
        f"for words in {lines!r}:\n"
        "    assert main(words) == 0, words\n"
        f"    found = sorted({set(HEAVY)!r} & sys.modules.keys())\n"
        "    assert not found, (words[0], found)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
