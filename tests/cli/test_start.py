"""Verbs start without the libraries that they do not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("lightning", "torchmetrics", "torchvision", "scipy", "matplotlib", "wandb", "webdataset")
COMMANDS = {
    "edit": ("ckpt=tiny.safetensors", "guide=guide.png", "mask=mask.png", "steps=2", "samples=1", "out=edited"),
    "demo": ("ckpt=tiny.safetensors", "guide=guide.png", "mask=mask.png", "steps=2", "samples=1", "out=demo.png"),
    "info": ("ckpt=tiny.safetensors",),
    "import": ("src={ddim}/model.ckpt", "config={ddim}/config.json", "out=imported.safetensors"),
    "export": ("ckpt=tiny.safetensors", "format=torch_export", "out=model.pt2"),
}


def test_no_verb_imports_a_library_that_it_does_not_use(desk: Path, reference: Path) -> None:
    ddim = reference / "sdedit_ddpm"
    lines = [[verb, *(word.format(ddim=ddim) for word in words)] for verb, words in COMMANDS.items()]
    program = (
        "import sys; from sdedit_pl.cli import main\n"
        f"for words in {lines!r}:\n"
        "    assert main(words) == 0, words\n"
        f"    assert not {set(HEAVY)!r} & sys.modules.keys(), (words, sorted({set(HEAVY)!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
