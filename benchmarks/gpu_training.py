"""A training on a GPU that is stopped by the clock, on images that are decoded once and stay on the device.

    python benchmarks/gpu.py out=DIR stages=train train.config=photos64 train.images=photos.tar train.seconds=300

Keys (each as `train.KEY=`): config (a file of configs/), images (a tar of JPEG, PNG or WebP files; names that begin
with val/ are held out), seconds or count (of images seen), batch, name, optimizer, rate, init (a file that an earlier
run has left), crops (true for random crops at several scales of images larger than the network's), augment, compile and
early (false for none). The rate falls to zero over the last quarter.

Leaves in `out` the averaged weights as NAME.safetensors, those of an early average as NAME-early.safetensors (for
autoguidance), both float16, and returns the denoising error on held-out images by noise level.
"""

from __future__ import annotations

import io
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from sdedit_pl.checkpoints import describe
from sdedit_pl.losses import LogNormalNoise
from sdedit_pl.sde import SDES
from sdedit_pl.training.augmentation import Augmentation

if TYPE_CHECKING:
    from gpu import Bench, Loop

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GROUPS = 4
"""Number of scales of the crops of one batch."""
LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Noise levels at which held-out images are denoised."""


def decoded(file: Path, side: int) -> tuple[Tensor, Tensor]:
    """The training and the held-out images of a tar, uint8, (N, 3, side, side); elongated ones give two crops."""
    with tarfile.open(file) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive if member.isfile()]  # pyright: ignore

    def squares(item: tuple[str, bytes]) -> tuple[bool, list[np.ndarray]]:
        image = Image.open(io.BytesIO(item[1]), formats=("JPEG", "PNG", "WEBP")).convert("RGB")
        places = (0.0, 1.0) if max(image.size) >= 1.3 * min(image.size) else (0.5,)
        cut = [
            ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS, centering=(place, place)) for place in places
        ]
        return item[0].startswith("val/"), [np.asarray(square) for square in cut]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(squares, members))
    train, held_out = (
        [square for is_val, cut in found if is_val is wanted for square in cut] for wanted in (False, True)
    )
    held_out = held_out or train[:64]
    return tuple(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) for images in (train, held_out))  # pyright: ignore


def batches(images: Tensor, batch: int, size: int, crops: bool) -> Callable[[], Tensor]:
    """Draws batches in [-1, 1], mirrored at random; with `crops`, of resized squares of `size` pixels or more."""
    count, side = len(images), images.shape[-1]

    def draw() -> Tensor:
        chosen = images[torch.randint(count, (batch,), device=images.device)]
        if crops:
            parts = []
            for part in chosen.split(-(-batch // GROUPS)):
                edge = int(torch.randint(size, side + 1, (1,)))
                top, left = (int(torch.randint(side - edge + 1, (1,))) for _ in range(2))
                part = part[:, :, top : top + edge, left : left + edge].float()
                parts.append(
                    part if edge == size else F.interpolate(part, (size, size), mode="bicubic", antialias=True)
                )
            chosen = torch.cat(parts)
        mirrored = (torch.rand(batch, device=images.device) < 0.5)[:, None, None, None]
        chosen = chosen.float() / 127.5 - 1
        return torch.where(mirrored, chosen.flip(3), chosen).clamp(-1, 1).contiguous(memory_format=torch.channels_last)

    return draw


def held_out_errors(loop: Loop, weights: list[Tensor], images: Tensor) -> dict[str, float]:
    """Mean squared error of the denoised held-out images at each noise level, in units of the noise level squared."""
    denoiser, device = loop.module.denoiser, images.device
    before = [parameter.detach().clone() for parameter in loop.parameters]
    found = {}
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), loop.precision:
        torch._foreach_copy_(loop.parameters, weights)  # pyright: ignore
        for level in LEVELS:
            t = denoiser.sde.time_at_noise_level(torch.full((len(images),), level, device=device))
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).to(device)
            error = denoiser(denoiser.sde.perturb(images, t, noise), t) - images
            found[str(level)] = round((error.square().mean() / level**2).item(), 5)
        torch._foreach_copy_(loop.parameters, before)  # pyright: ignore
    return found


def run(bench: Bench, make_loop: type[Loop]) -> dict[str, Any]:
    """Trains; the clock starts after the first steps, which compile."""
    given = bench.train
    config = yaml.safe_load((CONFIGS / f"{given['config']}.yaml").read_text())
    size, batch = config["data"]["size"], int(given.get("batch", 256))
    name = given.get("name", given["config"])
    crops = given.get("crops") == "true"
    train, held_out = decoded(Path(given["images"]), size * 3 // 2 if crops else size)
    train = train.to(bench.device)
    draw = batches(train, batch, size, crops)
    augmentation = Augmentation(**config.get("augment", {}))
    stored = config.get("network") or describe(given.get("init", "photos64")).model.network.values
    network = {key: value for key, value in stored.items() if key != "name"}
    if "init" in given or augmentation.labels:
        network["augmentation_labels"] = 9
    sde = {key: value for key, value in config["sde"].items() if key != "name"}
    times = LogNormalNoise(**{key: value for key, value in config["times"].items() if key != "name"})
    rate = float(given.get("rate", config["optimizer"]["rate"]))
    loop = make_loop(
        bench, network, batch, size, sde=SDES[config["sde"]["name"]](**sde), times=times, rate=rate,
        compiled=given.get("compile") != "false", optimizer=given.get("optimizer", config["optimizer"]["name"]),
    )  # fmt: skip
    if given.get("augment") != "false":
        loop.module.augmentation = augmentation
    start = [parameter.detach().clone() for parameter in loop.parameters]
    for _ in range(3):  # compiles
        loop.step(draw())
    bench.synchronise()
    bench.take_turn()
    with torch.no_grad():
        torch._foreach_copy_(loop.parameters, start)  # pyright: ignore
        if "init" in given:
            loop.module.denoiser.network.load_state_dict(load_file(given["init"]))
        torch._foreach_copy_(loop.average, loop.parameters)  # pyright: ignore
    loop.optimizer.state.clear()
    for group in loop.optimizer.param_groups:
        group |= {"steps": 0} if "steps" in group else {}

    seconds, count = float(given.get("seconds", "inf")), int(given.get("count", 0))
    half_life, warm_up = float(config["average"]["half_life_images"]), 200 if "init" not in given else 50
    began, steps, early, losses = time.perf_counter(), 0, None, []
    while True:
        passed = steps * batch / count if count else (time.perf_counter() - began) / seconds
        if passed >= 1:
            break
        factor = min(1.0, (steps + 1) / warm_up, (1 - passed) / 0.25)
        for group in loop.optimizer.param_groups:
            group["lr"] = rate * factor
        seen = (steps + 1) * batch
        decay = 0.5 ** (batch / max(min(half_life, 0.05 * seen), 1e-8))
        loss = loop.step(draw(), decay)
        steps += 1
        if steps % 100 == 0:
            bench.synchronise()  # so that the clock is the device's
            losses.append(round(loss.item(), 4))
        if early is None and passed > 0.12:
            early = [weight.clone() for weight in loop.average]
    bench.synchronise()
    spent = time.perf_counter() - began
    for suffix, weights in (("", loop.average), ("-early", early or loop.average)):
        names = [key for key, _ in loop.module.denoiser.network.named_parameters()]
        state = {**loop.module.denoiser.network.state_dict(), **dict(zip(names, weights, strict=True))}
        state = {key: value.half().cpu().contiguous() for key, value in state.items()}
        if not suffix or given.get("early") != "false":
            save_file(state, bench.out / f"{name}{suffix}.safetensors")
    held_out = (held_out[:, :, :size, :size].float() / 127.5 - 1).to(bench.device)
    found = {
        "images": steps * batch,
        "steps": steps,
        "training seconds": round(spent, 1),
        "images/s": round(steps * batch / spent),
        "training images": len(train),
        "held-out error by noise level": held_out_errors(loop, loop.average, held_out),
        "early average's": held_out_errors(loop, early or loop.average, held_out),
        "losses": losses[:: max(1, len(losses) // 40)],
    }
    sys.stdout.write(f"   {found}\n")
    return found
