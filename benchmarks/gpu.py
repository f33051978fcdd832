"""Checks and measures the package on a GPU, in one process and a few minutes, without a network.

    python benchmarks/gpu.py out=DIR [stages=ceilings,parity,...] [seconds=480] [size=full|tiny] [device=cuda|cpu]
                             [only=ROW] [turns=DIR peers=N] [train.images=TAR train.seconds=300 train.KEY=VALUE ...]

Each stage has a deadline of its own and writes DIR/STAGE.json as soon as it ends, even if it fails; DIR/report.md is
written anew after each. `size=tiny device=cpu` rehearses the script on a CPU. Missing packages are named first: only
torch, numpy, lightning, safetensors, jaxtyping and pillow are needed; `gpu_wheels.sh` gathers the others as wheels.

Stages: ceilings (a bf16 product, a copy), parity (float64 on the CPU against the device in each precision, gradients,
noise, an edit), syncs (no step of training or of an edit waits for the device), fit (the whole command, ended after
half of its steps and resumed; NCCL with one process), training (images a second, with each part switched off), edits
(milliseconds, beside diffusers), profile and edit_profile (kernels of a training step and of an edit), around (batches
from the loader and from the device, a checkpoint), command (images a second of `sdedit train config=domain64`), train
(a run stopped by the clock).

Compiling takes most of the time. N processes that each measure one row (`only=`) of training or edits, or a profile,
compile side by side with `turns=DIR peers=N`; when all have compiled, they measure one after the other. On 16 cores,
five processes took two minutes to compile, and eleven took six.
"""

from __future__ import annotations

import csv
import fcntl
import importlib.util
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gpu_training

from sdedit_pl.conditions import ClassCondition
from sdedit_pl.data.batch_reading import CachedImages
from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.loader import ResidentLoader
from sdedit_pl.data.order import Changes, DeviceShare, TrainingBatches, TrainingOrder
from sdedit_pl.data.source import Source
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.batch_independence import prepare_for_batches
from sdedit_pl.editing.guidance import guided
from sdedit_pl.losses import EDMWeighting, LogNormalNoise, denoising_loss
from sdedit_pl.networks import NETWORKS
from sdedit_pl.networks.initialisation import GroupNorm
from sdedit_pl.noise import PrefetchedNoise, SeededNoise, Simplex
from sdedit_pl.parameterisations import EDM, Epsilon
from sdedit_pl.sde import VESDE, VPSDE, DiscreteVPSDE
from sdedit_pl.training.checkpoint_io import DurableCheckpoints
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.optimizers import OPTIMIZERS, Constant

DOMAIN64: dict[str, Any] = {
    "channels": 96,
    "channel_multipliers": [1, 2, 2],
    "blocks_per_level": 2,
    "attention_levels": [2],
    "progressive_input": "residual",
    "dropout": 0.05,
}
"""The network of configs/domain64.yaml, 15.9 M parameters."""
DDPM256: dict[str, Any] = {
    "channels": 128,
    "channel_multipliers": [1, 1, 2, 2, 4, 4],
    "blocks_per_level": 2,
    "attention_levels": [4],
}
"""The network of the published DDPM models at 256 px, 113.7 M parameters."""
SMALL: dict[str, dict[str, Any]] = {
    "ncsnpp": {**DOMAIN64, "channels": 32, "dropout": 0.0},
    "ddpm": {"channels": 64, "channel_multipliers": [1, 2], "attention_levels": [1]},
    "adm": {"channels": 64, "channel_multipliers": [1, 2], "attention_levels": [1], "head_channels": 32},
}
"""Networks small enough for float64 on a CPU."""
NEEDED = ("lightning", "jaxtyping", "safetensors", "PIL")
WANTED = ("omegaconf", "webdataset", "braceexpand", "diffusers", "denoising_diffusion_pytorch", "torchmetrics", "wandb")


@dataclass
class Bench:
    """The settings and results that the stages share.

    Args:
        out: folder of the results.
        device: the device measured.
        tiny: whether everything is small, for a rehearsal.
        ceilings: results of the stage `ceilings`.
        train: settings of the stage `train`.
        only: the row of `training` or `edits` to measure; empty for all.
        turns: folder in which `peers` processes take turns to measure.
        peers: number of these processes.
    """

    out: Path
    device: torch.device
    tiny: bool
    ceilings: dict[str, float] = field(default_factory=dict)
    train: dict[str, str] = field(default_factory=dict)
    only: str = ""
    turns: Path | None = None
    peers: int = 1

    def take_turn(self) -> None:
        """Waits until all peers have compiled and none measures; this process then measures until it ends."""
        if self.turns is None:
            return
        self.turns.mkdir(exist_ok=True)
        (self.turns / f"{time.time_ns()}.ready").touch()
        end = time.monotonic() + 300
        while len(list(self.turns.glob("*.ready"))) < self.peers and time.monotonic() < end:
            time.sleep(0.2)
        self.turn = (self.turns / "turn").open("w")
        fcntl.flock(self.turn, fcntl.LOCK_EX)

    def milliseconds(self, run: Callable[[], object], repeats: int = 10, warm_up: int = 3) -> float:
        """Median time of a run on the device."""
        if self.tiny:
            repeats, warm_up = 1, 1
        for _ in range(warm_up):
            run()
        times = []
        for _ in range(repeats):
            self.synchronise()
            start = time.perf_counter()
            run()
            self.synchronise()
            times.append((time.perf_counter() - start) * 1e3)
        return statistics.median(times)

    def synchronise(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main(arguments: list[str]) -> int:
    """Runs the stages and returns 0, or 1 if one of them failed."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if "out" not in given:
        raise SystemExit("out=DIR is required: the folder of the results")
    names = given.get("stages", ",".join(STAGES)).split(",")
    if unknown := set(names) - set(STAGES):
        raise SystemExit(f"unknown stages {', '.join(sorted(unknown))}; known: {', '.join(STAGES)}")
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise SystemExit(f"missing packages: {', '.join(lacking)}; see benchmarks/gpu_wheels.sh")
    device = torch.device(given.get("device", "cuda"))
    bench = Bench(Path(given["out"]), device, given.get("size") == "tiny")
    bench.only, bench.peers = given.get("only", ""), int(given.get("peers", 1))
    bench.turns = Path(given["turns"]) if "turns" in given else None
    bench.train = {key[6:]: value for key, value in given.items() if key.startswith("train.")}
    bench.out.mkdir(parents=True, exist_ok=True)
    if bench.tiny:
        torch.compiler.set_stance("force_eager")  # what is rehearsed is the script, not the compiler
    end, results = time.monotonic() + float(given.get("seconds", 480)), {"machine": machine(bench)}
    for name in names:
        left = end - time.monotonic()
        began = time.monotonic()
        try:
            with deadline(left if bench.tiny or bench.turns else min(left, STAGES[name][1])):
                found: dict[str, Any] = STAGES[name][0](bench)
        except Exception as error:  # noqa: BLE001 (a stage that fails must not end the others)
            found = {"failed": f"{type(error).__name__}: {str(error).strip()[:1500]}"}
        found["seconds"] = round(time.monotonic() - began, 1)
        results[name] = found
        (bench.out / f"{name}.json").write_text(json.dumps(found, indent=1))
        (bench.out / "report.md").write_text(report(results))
        sys.stdout.write(f"== {name} {json.dumps(found)[:3000]}\n")
        sys.stdout.flush()
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return int(any("failed" in found for found in results.values()))


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the body after some seconds."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    if seconds <= 0:
        raise TimeoutError("no time was left")
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def machine(bench: Bench) -> dict[str, Any]:
    """The device, the versions, and the packages that are missing."""
    missing = [name for name in WANTED if importlib.util.find_spec(name) is None]
    found: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0], "missing": missing}
    if bench.device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "multiprocessors": properties.multi_processor_count}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def report(results: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown, one list per stage."""
    lines = ["# One run of benchmarks/gpu.py", ""]
    for name, found in results.items():
        lines += [f"## {name}", ""]
        for key, value in found.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                columns = list(value[0])
                lines += ["", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
                lines += [f"| {' | '.join(str(row.get(column, '')) for column in columns)} |" for row in value]
                lines.append("")
            else:
                lines.append(f"- {key}: {value}")
        lines.append("")
    return "\n".join(lines)


def ceilings(bench: Bench) -> dict[str, Any]:
    """The rate of a large bf16 product and of a large copy."""
    side, count = (256, 2**20) if bench.tiny else (8192, 2**31)
    left, right = (torch.randn(side, side, device=bench.device).bfloat16() for _ in range(2))
    product = 2 * side**3 / bench.milliseconds(lambda: left @ right) * 1e-9
    source = torch.randint(0, 255, (count,), device=bench.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = 2 * count / bench.milliseconds(lambda: target.copy_(source)) * 1e-9
    bench.ceilings = {"bf16 product, TFLOP/s": round(product, 1), "copy, TB/s": round(copy, 3)}
    return dict(bench.ceilings)


def random_denoiser(name: str, settings: dict[str, Any], sde: Any = None, parameterisation: Any = None) -> Denoiser:
    """A denoiser without zero weights, on the CPU in float32."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = NETWORKS[name](**settings)
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return Denoiser(network, parameterisation or EDM(), sde or VPSDE())


def parity(bench: Bench) -> dict[str, Any]:
    """Outputs and gradients of small networks against float64 on the CPU; noise; an edit of the bundled model."""
    rows = []
    size = 16 if bench.tiny else 32
    for name, settings in SMALL.items():
        x, noise = (torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
        t = torch.tensor([0.1, 0.3, 0.5, 0.9])

        def loss(denoiser: Denoiser, *parts: Tensor) -> Tensor:
            return denoising_loss(denoiser, *parts, EDMWeighting()).mean()

        exact = random_denoiser(name, settings).double()
        wanted = exact(x.double(), t.double()).detach()
        loss(exact, x.double(), t.double(), noise.double()).backward()
        gradients = torch.cat(
            [parameter.grad.flatten() for parameter in exact.parameters() if parameter.grad is not None]
        )
        row: dict[str, Any] = {"network": name}
        here = [part.to(bench.device) for part in (x, t, noise)]

        def plain(
            denoiser: Denoiser, run: Callable[..., Tensor] = loss, here: list[Tensor] = here
        ) -> tuple[Tensor, Tensor]:
            output = denoiser(here[0], here[1]).detach()
            run(denoiser, *here).backward()
            return output, torch.cat([p.grad.flatten() for p in denoiser.parameters() if p.grad is not None])

        def autocast(
            denoiser: Denoiser, run: Callable[..., Tensor] = loss, plain: Callable[..., Any] = plain
        ) -> tuple[Tensor, Tensor]:
            with torch.autocast(bench.device.type, torch.bfloat16):
                return plain(denoiser, run)

        ways: dict[str, Callable[[Denoiser], tuple[Tensor, Tensor]]] = {
            "float32": plain,
            "tf32": plain,
            "bf16": autocast,
        }
        if name == "ncsnpp":  # one is enough for the compiler
            ways["bf16 compiled"] = partial(autocast, run=torch.compile(loss))
        for way, run in ways.items():
            set_tf32(way == "tf32")
            denoiser = random_denoiser(name, settings).to(bench.device, memory_format=torch.channels_last)
            output, found = run(denoiser)
            row[way] = f"{error(output, wanted):.1e}"
            row[f"{way}, gradient"] = f"{error(found, gradients):.1e}"
        converted = random_denoiser(name, settings).to(bench.device, memory_format=torch.channels_last)
        with in_precision(converted, "bfloat16"), torch.no_grad():
            row["bf16 converted"] = f"{error(converted(here[0], here[1]), wanted):.1e}"
        rows.append(row)
    set_tf32(False)
    seeded, like = SeededNoise([3, 4]), torch.empty(2, 3, size, size)
    with PrefetchedNoise(seeded, 5) as ahead:
        equal = all(
            torch.equal(ahead(step, 0, like.to(bench.device)).cpu(), seeded(step, 0, like)) for step in range(6)
        )
    return {"relative errors": rows, "noise equal to the bit": equal, **edit_parity(bench)}


def edit_parity(bench: Bench) -> dict[str, Any]:
    """The difference between edits by the bundled model on the device and on the CPU, in grey levels of 255."""
    from sdedit_pl import load_denoiser

    file = Path(__file__).resolve().parents[1] / "checkpoints" / "photos64.safetensors"
    guide = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    edit = SDEdit(t0=0.5, steps=2 if bench.tiny else 20)
    wanted, found = edit(load_denoiser(file), guide, seeds=[1, 2]), {}
    for precision in ("float32", "bfloat16"):
        denoiser = load_denoiser(file).to(bench.device, memory_format=torch.channels_last)  # pyright: ignore
        with in_precision(denoiser, precision):
            images = edit(denoiser, guide.to(bench.device), seeds=[1, 2])
            alone = edit(denoiser, guide[:1].to(bench.device), seeds=[1])
        found[f"edit, {precision}: mean difference from the CPU"] = grey_levels(images.cpu() - wanted)
        found[f"edit, {precision}: batch of 1 against 2"] = grey_levels(images[:1] - alone)
    return found


def grey_levels(difference: Tensor) -> float:
    """The mean absolute difference of images in [-1, 1], in grey levels of 255."""
    return round(difference.abs().mean().item() * 127.5, 4)


def error(found: Tensor, wanted: Tensor) -> float:
    """The relative error of a tensor, by norms, in float64."""
    found = found.cpu().double()
    return ((found - wanted).norm() / wanted.norm()).item()


def set_tf32(allowed: bool) -> None:
    """Sets whether float32 products and convolutions may use TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


OWN_NORM = GroupNorm.fused


class Loop:
    """Training steps as the package makes them, on images that are on the device.

    Args:
        bench: the device.
        settings: settings of the NCSN++.
        batch: images a step.
        size: height and width.
        autocast: whether steps run in bf16-mixed.
        channels_last: the layout of weights and images.
        compiled: whether the loss is compiled.
        fused: whether Adam's step is one kernel.
        tried: whether cuDNN chooses its algorithms by trial.
        norm: the compiled GroupNorm.
    """

    def __init__(
        self,
        bench: Bench,
        settings: dict[str, Any],
        batch: int,
        size: int,
        *,
        autocast: bool = True,
        channels_last: bool = True,
        compiled: bool = True,
        fused: bool = True,
        tried: bool = True,
        norm: Callable[..., Tensor] = OWN_NORM,
        sde: Any = None,
        times: LogNormalNoise | None = None,
        rate: float = 5e-4,
        optimizer: str = "adam",
    ) -> None:
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = tried
        GroupNorm.fused = norm
        layout = torch.channels_last if channels_last else torch.contiguous_format
        denoiser = Denoiser(NETWORKS["ncsnpp"](**settings), EDM(), sde or VPSDE(), t_max=times.t_max if times else 1.0)
        denoiser = denoiser.to(bench.device, memory_format=layout)  # pyright: ignore[reportCallIssue]
        times = times or LogNormalNoise(mean=-0.8, deviation=1.4)
        self.module = ScoreModule(denoiser, EDMWeighting(), times, OPTIMIZERS[optimizer](rate, (0.9, 0.99)), Constant())
        if compiled:
            self.module.compile_losses()
        self.parameters = list(self.module.parameters())
        self.optimizer = self.module.optimizer.build(self.parameters, fused=fused and bench.device.type == "cuda")
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.precision = torch.autocast(bench.device.type, torch.bfloat16, enabled=autocast, cache_enabled=True)
        images = torch.randn(batch, 3, size, size, device=bench.device).clamp(-1, 1)
        self.images = images.contiguous(memory_format=layout)

    def step(self, images: Tensor | None = None, decay: float = 0.999) -> Tensor:
        """A step of training; returns its loss, on the device."""
        with self.precision:
            loss = self.module.training_step(self.images if images is None else images, 0)
        loss.backward()
        self.module.configure_gradient_clipping(self.optimizer, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)  # pyright: ignore
        return loss.detach()

    def flops(self) -> float:
        """Floating-point operations of a step for one image, of its products and convolutions."""
        eager = torch.compiler.set_stance("force_eager")
        with eager, FlopCounterMode(display=False) as counter:
            self.step(self.images[:2])
        return counter.get_total_flops() / 2


def training(bench: Bench) -> dict[str, Any]:
    """Images a second of `domain64`: as the defaults make it, then with parts switched off."""
    rows = []
    settings, size = ({**DOMAIN64, "channels": 16}, 16) if bench.tiny else (DOMAIN64, 64)
    batches = (2, 4) if bench.tiny else (256, 64)
    variants: dict[str, dict[str, Any]] = {
        "default": {},
        "not compiled": {"compiled": False},
        "not compiled, NCHW": {"compiled": False, "channels_last": False},
        "float32 with TF32, NCHW, not compiled": {"compiled": False, "channels_last": False, "autocast": False},
        "Adam not fused": {"fused": False},
        "NCHW": {"channels_last": False},
        "cuDNN's algorithms not tried": {"tried": False},
        "PyTorch's GroupNorm": {"norm": nn.GroupNorm.forward},
        "no dropout": {"dropout": 0.0},
    }
    for variant, options in variants.items():
        for batch in batches if variant == "default" or "not compiled" in variant else batches[:1]:
            if bench.only not in ("", f"{variant} {batch}"):
                continue
            set_tf32(True)
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                changed = {key: value for key, value in options.items() if key in settings}
                rest = {key: value for key, value in options.items() if key not in settings}
                loop = Loop(bench, settings | changed, batch, size, **rest)
                began = time.perf_counter()
                loop.step()
                bench.synchronise()
                first = time.perf_counter() - began
                bench.take_turn()
                milliseconds = bench.milliseconds(loop.step, 12, 4)
                row = {
                    "variant": variant,
                    "batch": batch,
                    "ms": round(milliseconds, 2),
                    "images/s": round(batch / milliseconds * 1e3),
                    "first step, s": round(first, 1),
                    "recompilations": recompilations(),
                    **usage(bench, loop.flops() * batch, milliseconds),
                }
            except TimeoutError:
                raise
            except Exception as failure:  # noqa: BLE001 (the row says so)
                row = {"variant": variant, "batch": batch, "ms": f"{type(failure).__name__}: {failure}"[:300]}
            rows.append(row)
            # Kept if the stage should run out of time.
            (bench.out / "training_rows.json").write_text(json.dumps(rows, indent=1))
            sys.stdout.write(f"   {row}\n")
            sys.stdout.flush()
    return {"rows": rows}


def recompilations() -> str:
    """Graphs that were compiled, and graph breaks, since the last reset."""
    counters = torch._dynamo.utils.counters
    return f"{counters['stats'].get('unique_graphs', 0)} graphs, {sum(counters['graph_break'].values())} breaks"


def usage(bench: Bench, flops: float, milliseconds: float) -> dict[str, Any]:
    """The share of the bf16 ceiling that was used, and peak memory."""
    found: dict[str, Any] = {"TFLOP/s": round(flops / milliseconds * 1e-9, 1)}
    if ceiling := bench.ceilings.get("bf16 product, TFLOP/s"):
        found["of the ceiling"] = f"{flops / milliseconds * 1e-9 / ceiling:.1%}"
    if bench.device.type == "cuda":
        found["peak GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


def syncs(bench: Bench) -> dict[str, Any]:
    """Runs training steps and edits in a mode in which waiting for the device raises."""
    if bench.device.type != "cuda":
        return {"note": "needs CUDA; tests use fake tensors in its place"}
    loop = Loop(bench, SMALL["ncsnpp"], 8, 32, compiled=False)
    denoiser = random_denoiser("ncsnpp", SMALL["ncsnpp"], VESDE()).to(bench.device)
    guide = torch.zeros(2, 3, 32, 32, device=bench.device)
    mask = torch.ones(2, 1, 32, 32, dtype=torch.bool, device=bench.device)
    large = torch.zeros(2, 3, 128, 128, device=bench.device)
    gathered_batches = iter(on_device(MadeUpImages(32, 64), 8, bench.device))
    wide = MadeUpImages(32, 64)
    wide.pixels = wide.pixels.to(torch.uint16)
    wide_batches = iter(on_device(wide, 8, bench.device))
    weak = random_denoiser("ncsnpp", SMALL["ncsnpp"], VESDE()).to(bench.device)
    labelled = random_denoiser("ncsnpp", {**SMALL["ncsnpp"], "condition_labels": 3}, VESDE()).to(bench.device)
    labelled = labelled.changed(labels=ClassCondition(classes=("cat", "dog", "hen")))
    found = {}
    runs: dict[str, Callable[[], object]] = {
        "training": loop.step,
        "edit": lambda: SDEdit(steps=5)(denoiser, guide, seeds=[1, 2]),
        "masked edit": lambda: SDEdit(steps=5)(denoiser, guide, edit_mask=mask, seeds=[1, 2]),
        "lowpass edit": lambda: SDEdit(steps=5, lowpass=4)(denoiser, guide, seeds=[1, 2]),
        "a batch that is gathered": lambda: next(gathered_batches),
        "guided edit": lambda: SDEdit(steps=5)(guided(denoiser, weak, 2.0, (0.1, 3.0)), guide, seeds=[1, 2]),
        "edit in inference mode": lambda: torch.inference_mode()(SDEdit(steps=5))(denoiser, guide, seeds=[1, 2]),
        "edit by label": lambda: SDEdit(steps=5)(guided(labelled.labelled("dog"), None, 2.0), guide, seeds=[1, 2]),
        "edit with simplex noise": lambda: SDEdit(steps=5)(denoiser.changed(noise=Simplex()), guide, seeds=[1, 2]),
        "a batch of 16 bits": lambda: next(wide_batches),
        "lowpass edit by 64": lambda: SDEdit(steps=2, lowpass=64)(denoiser, large, seeds=[1, 2]),
    }
    for name, run in runs.items():
        try:
            run()
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            run()
            found[name] = "waits for nothing"
        except RuntimeError as failure:
            import traceback

            frames = [frame for frame in traceback.extract_tb(failure.__traceback__) if "sdedit_pl" in frame.filename]
            place = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}: " if frames else ""
            found[name] = f"{place}{failure}"[:200]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return found


def fit(bench: Bench) -> dict[str, Any]:
    """`sdedit train` on made-up images: 8 steps in one run, and 4 resumed to 8; weights must be equal to the bit."""
    from PIL import Image

    images = bench.out / "images"
    images.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(images / f"{number}.png")
    common = [
        f"data.path={images}", "data.size=16", "data.batch_size=8", "data.workers=0", "network.channels=32",
        "network.channel_multipliers=[1,2]", "network.blocks_per_level=1", "network.attention_levels=[1]",
        "checkpoint.every_steps=4", "trainer.val_check_interval=8", "validation.memory_images=0", "preview.count=0",
        "preview.samples=0", "trainer.enable_progress_bar=false", f"trainer.accelerator={bench.device.type}",
        "trainer.devices=1", "trainer.precision=bf16-mixed",
    ]  # fmt: skip

    def train(name: str, steps: int, *more: str) -> str:
        out = bench.out / name
        command = [sys.executable, "train.py", f"out={out}", f"trainer.max_steps={steps}", *common, *more]
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600 if bench.tiny else 150)
        return "" if done.returncode == 0 else f"exit {done.returncode}: {done.stderr[-600:]}"

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:  # starting up takes most of the time of each
        ddp = pool.submit(train, "ddp", 8, "trainer.strategy=ddp")
        compiled = pool.submit(train, "compiled", 8, "compile=true", "channels_last=true")
        whole = pool.submit(train, "whole", 8)
        failures = {"half": train("resumed", 4), "resumed": train("resumed", 8)}
        failures |= {"whole": whole.result(), "ddp": ddp.result(), "compiled": compiled.result()}
    found: dict[str, Any] = {name: text or "done" for name, text in failures.items()}
    if not any(failures[name] for name in ("half", "resumed", "whole")):
        found["resumed equals whole, to the bit"] = same_weights(*(bench.out / name for name in ("whole", "resumed")))
    if not failures["ddp"] and not failures["whole"]:
        found["NCCL with one process equals whole, to the bit"] = same_weights(bench.out / "whole", bench.out / "ddp")
    return found


class MadeUpImages(Source):
    """Random images in memory."""

    def __init__(self, size: int, count: int) -> None:
        super().__init__(ImageFormat(size))
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
        self.pixels = pixels.permute(0, 3, 1, 2)

    def images(self, split: str) -> CachedImages:
        """The same for both splits."""
        return CachedImages(self.pixels)


def on_device(source: MadeUpImages, batch: int, device: torch.device) -> ResidentLoader:
    """Training batches of images that stay on the device."""
    order = TrainingOrder(len(source.pixels), 0, Changes(flip=True))
    return ResidentLoader(
        CachedImages(source.pixels).on(device), TrainingBatches(DeviceShare(batch), order), source.format
    )


def around(bench: Bench) -> dict[str, Any]:
    """The rates of batches from the loader and from the device, and the time that a checkpoint of `domain64` takes."""
    size, count, batch = (16, 64, 8) if bench.tiny else (64, 8192, 256)
    source = MadeUpImages(size, count)
    loaders = {
        "loader": iter(ImageDataModule(source, batch, workers=0, flip=True).training_loader()),
        "device": iter(on_device(source, batch, bench.device)),
    }
    found: dict[str, Any] = {
        "batches equal to the bit": all(
            torch.equal(*(next(loader).to(bench.device) for loader in loaders.values())) for _ in range(4)
        )
    }
    for name, loader in loaders.items():
        milliseconds = bench.milliseconds(lambda loader=loader: next(loader).to(bench.device), 20)
        found[f"images/s from the {name}"] = round(batch / milliseconds * 1e3)
    loop = Loop(bench, {**DOMAIN64, "channels": 16} if bench.tiny else DOMAIN64, 2, size, compiled=False)
    loop.step()
    state = {"weights": loop.parameters, "average": loop.average, "optimizer": loop.optimizer.state_dict()}
    files, began = DurableCheckpoints(), time.perf_counter()
    files.save_checkpoint(state, bench.out / "checkpoint.ckpt")
    found["checkpoint: seconds that training waits"] = round(time.perf_counter() - began, 3)
    files.wait()
    found["checkpoint: seconds until it is on the disk"] = round(time.perf_counter() - began, 3)
    (bench.out / "checkpoint.ckpt").unlink()
    return found


def command(bench: Bench) -> dict[str, Any]:
    """Images a second of the whole command on made-up images, with the defaults of the machine."""
    from PIL import Image

    size, steps, options = 64, 300, ["data.batch_size=256"]
    if bench.tiny:
        size, steps, options = 16, 4, ["data.batch_size=2", "data.size=16", "network.channels=16"]
    images, out = bench.out / "pictures", bench.out / "command"
    images.mkdir(exist_ok=True)
    for number, pixels in enumerate(MadeUpImages(size, 64 if bench.tiny else 2048).pixels):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(images / f"{number}.png", compress_level=1)
    # The length of the whole run decides whether it is compiled.
    options += ["compile=true", "channels_last=true"] if not bench.tiny else []
    options += [
        f"out={out}", f"data.path={images}", f"trainer.max_steps={steps}", f"trainer.accelerator={bench.device.type}",
        "trainer.devices=1", "trainer.log_every_n_steps=2" if bench.tiny else "trainer.log_every_n_steps=50",
        "trainer.val_check_interval=100000", "trainer.limit_val_batches=1", "preview.count=0", "preview.samples=0",
        "validation.memory_images=0", "trainer.enable_progress_bar=false",
    ]  # fmt: skip
    root = Path(__file__).resolve().parents[1]
    run = [sys.executable, "train.py", "config=domain64", *options]
    done = subprocess.run(run, cwd=root, capture_output=True, text=True, timeout=280)
    if done.returncode:
        return {"failed": f"exit {done.returncode}: {done.stderr[-600:]}"}
    with (out / "metrics.csv").open(newline="") as file:
        rates = [row["train/images_per_second"] for row in csv.DictReader(file)]
    arithmetic = [line for line in done.stderr.splitlines() if "arithmetic:" in line]
    rate = statistics.median([float(rate) for rate in rates if rate][-3:])
    return {"images/s": round(rate), "arithmetic": arithmetic[-1] if arithmetic else "unknown"}


def same_weights(*runs: Path) -> bool:
    """Whether the newest checkpoints of two runs hold the same weights."""
    states = []
    for run in runs:
        newest = max((run / "checkpoints").glob("step*.ckpt"), key=lambda path: path.stat().st_mtime)
        states.append(torch.load(newest, map_location="cpu", weights_only=True)["current_model_state"])
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


EDITS = (
    "ours, compiled, cuDNN by trial",
    "diffusers, compiled, cuDNN by trial",
    "ours, compiled",
    "diffusers, compiled",
    "ours, guided, compiled, cuDNN by trial",
    "ours",
    "diffusers",
)
"""Guided: by a network of the same size, at all noise levels."""


def edits(bench: Bench) -> dict[str, Any]:
    """An edit in 20 steps with the DDPM network at 256 px, in bf16 and compiled, beside diffusers' loop."""
    rows = []
    for batch in (1, 16):
        for name in EDITS:
            if bench.only not in ("", f"{name} {batch}"):
                continue
            row = {"edit": name, "batch": batch, **measured_edit(bench, name, batch)}
            rows.append(row)
            (bench.out / "edits_rows.json").write_text(json.dumps(rows, indent=1))
            sys.stdout.write(f"   {row}\n")
            sys.stdout.flush()
    return {"rows": rows}


def measured_edit(bench: Bench, name: str, batch: int) -> dict[str, Any]:
    """Milliseconds of an edit."""
    try:
        run = an_edit(bench, name, batch)
        began = time.perf_counter()
        run()
        bench.synchronise()
        first = time.perf_counter() - began
        bench.take_turn()
        milliseconds = bench.milliseconds(run, 5, 2)
        row = {"ms": round(milliseconds, 1), "first, s": round(first, 1)}
        settings, size, steps = edit_sizes(bench)
        networks = 2 if "guided" in name else 1
        return row | usage(bench, networks * network_flops(settings, size) * batch * steps, milliseconds)
    except TimeoutError:
        raise
    except Exception as failure:  # noqa: BLE001 (the row says so)
        return {"ms": f"{type(failure).__name__}: {failure}"[:300]}


def edit_sizes(bench: Bench) -> tuple[dict[str, Any], int, int]:
    """The network's settings, the image's size and the number of steps."""
    return ({**DDPM256, "channels": 32}, 64, 2) if bench.tiny else (DDPM256, 256, 20)


def an_edit(bench: Bench, name: str, batch: int) -> Callable[[], object]:
    """An edit of random guides with random weights, by a name of `EDITS`."""
    settings, size, steps = edit_sizes(bench)
    mode = "reduce-overhead" if batch == 1 else "default"  # CUDA graphs, as the package has them
    torch.backends.cudnn.benchmark = "by trial" in name
    torch._dynamo.reset()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    guide = torch.rand(batch, 3, size, size, device=bench.device) * 2 - 1
    if not name.startswith("ours"):
        return diffusers_edit(bench, settings, guide, steps, mode if "compiled" in name else None)
    sde = DiscreteVPSDE(1e-4, 0.02, 1000)
    denoiser = random_denoiser("ddpm", settings, sde, Epsilon(label_scale=1000.0, label_offset=-1.0))
    if "guided" in name:
        denoiser = guided(denoiser, random_denoiser("ddpm", settings, sde, denoiser.parameterisation), 2.0)
    denoiser = denoiser.to(bench.device, memory_format=torch.channels_last)  # pyright: ignore
    prepare_for_batches(denoiser, batch, size**2, 1, "bfloat16", "compiled" in name)
    in_precision(denoiser, "bfloat16")
    denoiser.eval().requires_grad_(False)
    return partial(SDEdit(t0=0.5, steps=steps), denoiser, guide, seeds=list(range(batch)))


def network_flops(settings: dict[str, Any], size: int) -> float:
    """Floating-point operations of one evaluation of a DDPM network on one image."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        network = NETWORKS["ddpm"](**settings)
        network(torch.empty(1, 3, size, size), torch.empty(1))
    return counter.get_total_flops()


def diffusers_edit(
    bench: Bench, settings: dict[str, Any], guide: Tensor, steps: int, mode: str | None
) -> Callable[[], object]:
    """The same edit through diffusers' UNet2DModel and its SDE-DPM-Solver++ scheduler."""
    from diffusers import DPMSolverMultistepScheduler, UNet2DModel

    torch._dynamo.reset()
    levels = len(settings["channel_multipliers"])
    attends = [level in settings["attention_levels"] for level in range(levels)]
    unet = UNet2DModel(
        block_out_channels=[settings["channels"] * factor for factor in settings["channel_multipliers"]],
        layers_per_block=settings["blocks_per_level"],
        down_block_types=["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        up_block_types=["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
        attention_head_dim=None,
        norm_eps=1e-6,
    )
    unet = unet.to(bench.device, torch.bfloat16, memory_format=torch.channels_last).eval().requires_grad_(False)  # pyright: ignore
    if mode is not None:
        unet.compile(mode=mode, dynamic=False)
    scheduler = DPMSolverMultistepScheduler(beta_schedule="linear", algorithm_type="sde-dpmsolver++")

    @torch.no_grad()
    def run() -> Tensor:
        scheduler.set_timesteps(2 * steps, device=bench.device)
        times = scheduler.timesteps[-steps:]
        scheduler.set_begin_index(steps)
        generator = torch.Generator(bench.device).manual_seed(0)
        noise = torch.randn(guide.shape, device=bench.device, generator=generator)
        x = scheduler.add_noise(guide, noise, times[:1].expand(len(guide)))
        for t in times:
            output = unet(x.bfloat16(), t).sample.float()
            x = scheduler.step(output, t, x, generator=generator).prev_sample
        return x

    return run


def profile(bench: Bench) -> dict[str, Any]:
    """Three training steps of `domain64`, as a table of kernels by their time on the device."""
    settings, size, batch = ({**DOMAIN64, "channels": 16}, 16, 2) if bench.tiny else (DOMAIN64, 64, 256)
    return kernels(bench, Loop(bench, settings, batch, size).step)


def edit_profile(bench: Bench) -> dict[str, Any]:
    """Three edits of one image by the compiled DDPM network of 256 px, as a table of kernels."""
    return kernels(bench, an_edit(bench, "ours, compiled", 1))


def kernels(bench: Bench, run: Callable[[], object]) -> dict[str, Any]:
    """The kernels of a function, and its time."""
    for _ in range(3):
        run()
    bench.synchronise()
    bench.take_turn()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(3):
            run()
        bench.synchronise()
    on_gpu = bench.device.type == "cuda"

    def spent(event: Any) -> float:
        return event.self_device_time_total if on_gpu else event.self_cpu_time_total

    events = [event for event in profiler.key_averages() if spent(event) > 0]
    if on_gpu:
        events = [event for event in events if str(event.device_type).endswith("CUDA")]
    total = sum(map(spent, events)) or 1.0
    rows = [
        {
            "kernel": event.key[:90],
            "calls": event.count // 3,
            "ms": round(spent(event) / 3e3, 3),
            "share": f"{spent(event) / total:.1%}",
        }
        for event in sorted(events, key=spent, reverse=True)[:30]
    ]
    milliseconds = bench.milliseconds(run, 8, 2)
    return {"device ms": round(total / 3e3, 2), "wall ms": round(milliseconds, 2), "rows": rows}


def train(bench: Bench) -> dict[str, Any]:
    """A training stopped by the clock; `gpu_training.py` explains its keys."""
    return gpu_training.run(bench, Loop)


STAGES: dict[str, tuple[Callable[[Bench], dict[str, Any]], float]] = {
    "ceilings": (ceilings, 20),
    "syncs": (syncs, 90),
    "parity": (parity, 90),
    "training": (training, 150),
    "profile": (profile, 60),
    "edit_profile": (edit_profile, 60),
    "around": (around, 30),
    "edits": (edits, 180),
    "fit": (fit, 120),
    "command": (command, 300),
    "train": (train, 600),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
