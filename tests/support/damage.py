"""Damaged checkpoints: each made from a good one, with words that the error must contain."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

Change = Callable[[dict[str, Tensor], dict[str, Any], dict[str, str]], object]
"""Alters the tensors, the model's configuration or the other metadata of a checkpoint in place."""


class Damage(NamedTuple):
    """A checkpoint that cannot be used.

    Args:
        name: its file name.
        make: writes it, given a good editing checkpoint and the path.
        words: parts of the error besides the path.
    """

    name: str
    make: Callable[[Path, Path], object]
    words: tuple[str, ...]


def contents(good: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(good, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def rewritten(change: Change) -> Callable[[Path, Path], None]:

    def make(good: Path, bad: Path) -> None:
        tensors, metadata = contents(good)
        model = json.loads(metadata.pop("model"))
        change(tensors, model, metadata)
        save_file(tensors, bad, {"model": json.dumps(model), **metadata})

    return make


def lightning_checkpoint(good: Path) -> dict[str, Any]:
    """The same model as a training checkpoint, with the parts that editing reads."""
    tensors, metadata = contents(good)
    model = json.loads(metadata["model"])
    config = {"data": model.pop("image"), **model}
    state = {f"denoiser.network.{name}": tensor for name, tensor in tensors.items()}
    return {"sdedit_config": config, "state_dict": state, "global_step": 7}


def without_its_end(good: Path, bad: Path) -> None:
    bad.write_bytes(good.read_bytes()[:-1000])


def shortened_pickle(good: Path, bad: Path) -> None:
    torch.save(lightning_checkpoint(good), bad)
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])


class Bomb:
    """An object that makes the file `executed` when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.marker = folder / "executed"

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.marker,)


def bomb(good: Path, bad: Path) -> None:
    torch.save({**lightning_checkpoint(good), "extra": Bomb(bad.parent)}, bad)


def plain_bomb(good: Path, bad: Path) -> None:
    bad.write_bytes(pickle.dumps(Bomb(bad.parent)))


def misshape(tensors: dict[str, Tensor], model: dict[str, Any], metadata: dict[str, str]) -> None:
    tensors["stem.weight"] = torch.zeros(8, 3, 5, 5)


def overstate(model: dict[str, Any], section: str, key: str, value: Any) -> None:
    model[section][key] = value


def expanded(good: Path, bad: Path) -> None:
    checkpoint = lightning_checkpoint(good)
    state = {name: torch.ones(1).expand(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    torch.save({**checkpoint, "state_dict": state}, bad)


CODE = ("run code", "not loaded")
UNREADABLE = (
    Damage("missing.safetensors", lambda good, bad: None, ("there is no checkpoint", ".ckpt", "folder")),
    Damage("text.safetensors", lambda good, bad: bad.write_text("hello\n" * 20), ("not a complete .safetensors",)),
    Damage("empty.safetensors", lambda good, bad: bad.touch(), ("not a complete .safetensors", "truncated")),
    Damage("cut.safetensors", without_its_end, ("not a complete .safetensors", "truncated", "copy or download")),
    Damage("foreign.safetensors", lambda good, bad: save_file({"w": torch.ones(3)}, bad), ("no sdedit_pl config",)),
    Damage(
        "broken.safetensors",
        rewritten(lambda tensors, model, metadata: metadata.update(model="{'name': ")),
        ("configuration", "cannot be read"),
    ),
    Damage(
        "array.safetensors",
        rewritten(lambda tensors, model, metadata: metadata.update(training="[1]")),
        ("configuration", "JSON objects"),
    ),
    Damage(
        "newer.safetensors",
        rewritten(lambda tensors, model, metadata: metadata.update(version="2")),
        ("has version 2", "reads versions up to 1", "update"),
    ),
    Damage(
        "unversioned.safetensors",
        rewritten(lambda tensors, model, metadata: metadata.update(version="one")),
        ("has version one",),
    ),
    Damage("code.ckpt", bomb, CODE),
    Damage("plain.ckpt", plain_bomb, CODE),
    Damage("plain.pt", plain_bomb, CODE),
    Damage("text.ckpt", lambda good, bad: bad.write_text("hello\n"), ("not a complete checkpoint",)),
    Damage("empty.ckpt", lambda good, bad: bad.touch(), ("not a complete checkpoint", "truncated")),
    Damage("cut.ckpt", shortened_pickle, ("not a complete checkpoint", "truncated")),
    Damage(
        "foreign.ckpt",
        lambda good, bad: torch.save({"state_dict": {"w": torch.ones(3)}, "epoch": 3}, bad),
        ("not a checkpoint of this project", "no configuration"),
    ),
    Damage("tensor.ckpt", lambda good, bad: torch.save(torch.ones(3), bad), ("not a checkpoint of this project",)),
    Damage(
        "hollow.ckpt",
        lambda good, bad: torch.save({"sdedit_config": {"data": 3}, "state_dict": {}}, bad),
        ("configuration", "cannot be read"),
    ),
    Damage("folder", lambda good, bad: bad.mkdir(), ("neither model.safetensors nor checkpoints/*.ckpt",)),
)
"""Files from which no model can be read."""
UNFIT = (
    Damage(
        "transformer.safetensors",
        rewritten(lambda tensors, model, metadata: model["network"].update(name="transformer")),
        ("network.name must be one of ncsnpp, ddpm", "transformer"),
    ),
    Damage(
        "code.safetensors",
        rewritten(lambda tensors, model, metadata: model.update(sde={"name": "os.system", "command": "true"})),
        ("sde.name must be one of vp", "os.system"),
    ),
    Damage(
        "list.safetensors",
        rewritten(lambda tensors, model, metadata: model["network"].update(name=["ncsnpp"])),
        ("network.name must be one of",),
    ),
    Damage(
        "option.safetensors",
        rewritten(lambda tensors, model, metadata: model["network"].update(chanels=8)),
        ("unknown key network.chanels", "did you mean network.channels?"),
    ),
    Damage(
        "size.safetensors",
        rewritten(lambda tensors, model, metadata: model.update(image={"size": 15, "channels": 3})),
        ("multiple of 2", "got 15"),
    ),
    Damage(
        "number.safetensors",
        rewritten(lambda tensors, model, metadata: model.update(image={"size": "16", "channels": 3})),
        ("image.size", "'16'"),
    ),
    Damage(
        "lacking.safetensors",
        rewritten(lambda tensors, model, metadata: model.pop("sde")),
        ("cannot build", "sde"),
    ),
    Damage(
        "fewer.safetensors",
        rewritten(lambda tensors, model, metadata: tensors.pop("stem.weight")),
        ("missing ['stem.weight']", "do not fit its own configuration"),
    ),
    Damage(
        "more.safetensors",
        rewritten(lambda tensors, model, metadata: tensors.update(odd=torch.zeros(1))),
        ("not expected ['odd']", "do not fit its own configuration"),
    ),
    *(
        Damage(
            f"{section}_{key}_{value}"[:40] + ".safetensors",
            rewritten(lambda tensors, model, metadata, change=(section, key, value): overstate(model, *change)),
            words,
        )
        for section, key, value, words in (
            ("network", "channels", 20_000, ("(20000,), is (8,)",)),
            ("network", "blocks_per_level", 20_000, ("more than 5,000 tensors",)),
            ("network", "blocks_per_level", 10**9, ("network.blocks_per_level is 1,000,000,000",)),
            ("network", "attention_levels", [0] * 2000, ("network.attention_levels has 2,000 entries",)),
            ("network", "dropout", math.nan, ("network.dropout must be a finite number, got nan",)),
            ("image", "channels", 10**9, ("image.channels is 1,000,000,000",)),
            ("image", "channels", 5, ("stem.weight must be (8, 5, 3, 3)",)),
            ("sde", "beta_max", math.inf, ("sde.beta_max must be a finite number, got inf",)),
        )
    ),
    Damage(
        "nan.safetensors",
        rewritten(lambda tensors, model, metadata: tensors["head.norm.bias"].fill_(math.nan)),
        ("NaN or infinite", "head.norm.bias", "earlier checkpoint"),
    ),
    Damage(
        "infinite.safetensors",
        rewritten(lambda tensors, model, metadata: tensors["head.norm.bias"][0].fill_(-math.inf)),
        ("NaN or infinite", "head.norm.bias"),
    ),
    Damage(
        "whole.safetensors",
        rewritten(lambda tensors, model, metadata: tensors.update({"stem.bias": tensors["stem.bias"].to(torch.int8)})),
        ("int8 numbers (stem.bias)", "floating-point"),
    ),
    Damage("shape.safetensors", rewritten(misshape), ("stem.weight must be (8, 3, 3, 3), is (8, 3, 5, 5)",)),
    Damage("expanded.ckpt", expanded, ("more numbers than the file stores",)),
    Damage(
        "bare.ckpt",
        lambda good, bad: torch.save({**lightning_checkpoint(good), "state_dict": {"w": 3}}, bad),
        ("do not fit its own configuration",),
    ),
)
"""Files whose model cannot be built, or is not that of their weights."""
DAMAGES = (*UNREADABLE, *UNFIT)
