"""Verbs start without the libraries that they do not use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("lightning", "torchmetrics", "torchvision", "scipy", "matplotlib", "wandb", "webdataset")
COMMANDS = {
    "edit": ("ckpt=tiny.safetensors", "guide=guide.png", "mask=mask.png", "steps=2", "samples=1", "out=edited"),
    "demo": ("ckpt=tiny.safetensors", "guide=guide.png", "mask=mask.png", "steps=2", "samples=1", "out=demo.png"),
    "sample": ("ckpt=tiny.safetensors", "n=2", "steps=2", "out=sampled"),
    "info": ("ckpt=tiny.safetensors",),
    "import": ("ckpt={ddim}/model.ckpt", "config={ddim}/config.json", "out=imported.safetensors"),
    "export": ("ckpt=tiny.safetensors", "format=torch_export", "out=model.pt2"),
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_imports_no_library_that_it_does_not_use(verb: str, desk: Path, reference: Path) -> None:
    words = [word.format(ddim=reference / "sdedit_ddpm") for word in COMMANDS[verb]]
    program = (
        "import sys; from sdedit_pl.cli import main\n"
        f"assert main({[verb, *words]!r}) == 0\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)"
    ).replace(repr(HEAVY), repr(set(HEAVY)))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"
