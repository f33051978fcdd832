"""The arguments of `sdedit evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdedit_pl.checkpoints.guidance_settings import GuidanceSettings
from sdedit_pl.configuration import Component, family, require_at_least
from sdedit_pl.editing.sdedit import DEFAULT_GRID, DEFAULT_SOLVER
from sdedit_pl.evaluation.ablations import ABLATIONS, AblationValues
from sdedit_pl.evaluation.editing_tasks import TASKS
from sdedit_pl.evaluation.evaluation_plan import GUIDE, MASK, ORIGINAL, OURS
from sdedit_pl.evaluation.measurement import COVERAGE_IMAGES
from sdedit_pl.evaluation.methods import BASELINES
from sdedit_pl.grids import GRIDS, Grid
from sdedit_pl.machine import AutoBool, InferencePrecision
from sdedit_pl.metrics.extractor_table import FEATURES
from sdedit_pl.metrics.features import FeatureExtractor
from sdedit_pl.solvers import SOLVERS, Solver

UNRECORDED_KEYS = ("out", "accelerator", "devices", "num_nodes", "batch", "wandb", "overwrite")
"""Keys left out of the report, because they change numbers at most by rounding."""


@dataclass(kw_only=True)
class EvaluationArguments(GuidanceSettings):
    """The evaluation, its data and its output.

    Args:
        ckpt: the model, as for sdedit edit.
        data: images of the domain: a folder, or shards (a folder, file, pattern or URL).
        out: folder of the results.
        compare: a second model of the same image size, which the ablation sde compares with `ckpt`, such as VE with VP.
        split: val, the images that training holds out of `data`, or all, for data that training has not seen.
        val_fraction: share of the images held out if data has no val split; null for that of the model's training.
        images: how many images, spread evenly over those available; null for all.
        groups: CSV file of lines `name,group`. Images of one group (of one scene or person) do not count as independent
            in KID and are not pasted on each other; null for independent images.
        tasks: some of stroke_synthesis, stroke_editing, compositing.
        baselines: some of ddim, poisson, laplacian, nearest_sample; the unedited guide is always compared too.
        ablations: some of t0, colours, repeats, steps, solver, sde; the section ablation holds their values.
        outputs: outputs.NAME=FOLDER adds the images of another system. FOLDER holds a folder for each task, named like
            it, or the images themselves if there is one task; images are named like the guides in `out`.
        t0: how far guides are noised; null for the t0 from sdedit calibrate, or 0.5 without one.
        steps: solver steps from t0 to 0; null for the variant's default.
        repeats: number of runs of each edit, each on the result of the one before (K).
        variant: exact, or paper or reference, which follow the paper's algorithms and its code, respectively.
        seed: seed of the inputs; edit number n has the seed `seed` + n.
        lpips: network of the masked LPIPS, alex, vgg or squeeze; none omits it.
        lpips_weights: torchvision's file of the network of `lpips`; null takes it from torch's cache or downloads it.
        kid_subset: also report KID averaged over 100 random subsets of this size (elsewhere often 1000); null omits it.
        batch: images edited at once on each device; affects only speed, memory and, except in uncompiled
            float32 on a CPU, rounding.
        precision: precision of the network in edits; the state is always float32. auto is bfloat16 on GPUs with bf16
            and float32 elsewhere. tf32 is a faster, less exact float32 on GPUs. On a CPU, uncompiled float32 passes
            images through the network one by one, which is slow and makes them independent of the batch.
        compile: compile the network; auto compiles on GPUs with bf16 from 10,000 evaluations (five edits per image).
        accelerator: auto, cpu, gpu, ...
        devices: devices on each node; auto takes all.
        num_nodes: machines; they share the folder `out`.
        wandb: project of Weights & Biases that also receives the report; null for none.
        overwrite: make all images in `out` again.
    """

    guidance: float | None = None
    ckpt: str
    data: str
    out: str = "outputs/evaluation"
    compare: str | None = None
    split: Literal["val", "all"] = "val"
    val_fraction: float | None = None
    images: int | None = None
    groups: str | None = None
    tasks: tuple[str, ...] = tuple(TASKS)
    baselines: tuple[str, ...] = tuple(BASELINES)
    ablations: tuple[str, ...] = ("t0", "colours")
    outputs: dict[str, str] | None = None
    t0: float | str | None = None
    steps: int | None = None
    repeats: int = 1
    variant: str = "exact"
    seed: int = 0
    lpips: Literal["alex", "vgg", "squeeze", "none"] = "alex"
    lpips_weights: str | None = None
    kid_subset: int | None = None
    batch: int = 16
    precision: InferencePrecision = "auto"
    compile: AutoBool = "auto"
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    wandb: str | None = None
    overwrite: bool = False
    ablation: AblationValues
    solver: Component[Solver] = family(SOLVERS, DEFAULT_SOLVER, supplied=("predictor",))
    grid: Component[Grid] = family(GRIDS, DEFAULT_GRID)
    features: Component[FeatureExtractor] = family(FEATURES, "efficientnet_lite0")

    def __post_init__(self) -> None:
        require_at_least(self, images=COVERAGE_IMAGES, kid_subset=2, batch=1, seed=0, num_nodes=1)
        for name, table in (("tasks", TASKS), ("baselines", BASELINES), ("ablations", ABLATIONS)):
            chosen = getattr(self, name)
            for entry in chosen:
                if entry not in table:
                    raise ValueError(f"{name} must be some of {', '.join(table)}, got {entry!r}")
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"{name} names an entry twice: {', '.join(chosen)}")
        if not self.tasks and not self.ablations:
            raise ValueError("there is nothing to evaluate: give tasks= or ablations=")
        if any(ABLATIONS[name].compares for name in self.ablations) != (self.compare is not None):
            raise ValueError("compare=CHECKPOINT and ablations=[sde] need each other; give both or neither")
        known = [ORIGINAL, GUIDE, MASK, *BASELINES]
        for name in self.outputs or {}:
            if name in known or name.lower().startswith(OURS) or not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(
                    f"outputs.{name}: another system needs a name of letters, digits, - and _ that is none of "
                    f"{', '.join(known)} and does not begin with {OURS}"
                )
