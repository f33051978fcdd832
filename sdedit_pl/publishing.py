"""Publishes a model in a folder or on the Hugging Face Hub: weights, model card, curves and pictures.

For a run's folder the card uses `config.yaml`, `metrics.csv` and the last preview; for any other checkpoint, the facts
in its file. Only the last part of an absolute path is published, because the rest belongs to the author's machine.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from sdedit_pl.calibration.t0_sidecar import calibrated_t0, sidecar_of, write_calibration
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.checkpoints.hub import HUB, hub_errors, parsed_repository
from sdedit_pl.checkpoints.loading import assemble_denoiser, read_checkpoint
from sdedit_pl.checkpoints.locating import RUN_FILE, early_average, find_checkpoint
from sdedit_pl.checkpoints.native import Description, save_weights
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.schema import require_at_least
from sdedit_pl.configuration.yaml_reading import read_file, yaml_text
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.files import read_json, without_passwords
from sdedit_pl.plots import trade_off_plot
from sdedit_pl.result_folder import already_in, result_folder, results_in
from sdedit_pl.training.restartable_loggers import history_rows
from sdedit_pl.training_runs.run_folder import CONFIG_FILE, HISTORY_FILE, PREVIEWS

CARD = "README.md"
MEMORY = "val/memory/ratio"
SUSPECT_RATIO = 0.7
"""Ratio below which the card warns; training raises its alarm below 0.5."""


@dataclass(kw_only=True)
class PublishSettings:
    """A model to publish, and what only its author knows.

    Args:
        ckpt: the model: a run's folder, or any checkpoint that `sdedit edit` takes.
        to: a new folder, or hf:owner/name to push to the Hugging Face Hub (after `hf auth login`, or with HF_TOKEN).
        domain: what the model paints, such as "3D emoji portraits".
        images: what the model was trained on, whose images they are and under which licence.
        licence: the model's licence, a name that the Hub knows, such as mit, cc-by-4.0, openrail or other.
        evaluation: the folder of a report of `sdedit evaluate` on this model.
        memory: median distance of the model's edits to their nearest training image, relative to that of validation
            images (val/memory/ratio), if the run has not logged it.
        pictures: further pictures for the card.
        private: makes a new repository private.
    """

    ckpt: str
    to: str
    domain: str
    images: str
    licence: str
    evaluation: str | None = None
    memory: float | None = None
    pictures: tuple[str, ...] = ()
    private: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, memory=0)


def publish_model(settings: PublishSettings) -> str:
    """Publishes a model and returns where it is: the folder, or the address of the repository.

    Raises CheckpointError or ValueError if the model cannot be read, the Hub refuses, or the folder is in use.
    """
    checkpoint = find_checkpoint(settings.ckpt)
    if not settings.to.startswith(HUB):
        folder = Path(settings.to)
        if folder.is_file():
            raise ConfigError(f"to={folder} is a file; give a new folder")
        replaced: set[str] = set()
        with result_folder(folder, replaced=replaced) as unfinished:
            _write(unfinished, settings, checkpoint, folder.name)
            if any(not file.name.startswith(".") for file in folder.iterdir()) and not already_in(folder, unfinished):
                raise ConfigError(f"to={folder} already exists; give a new folder")
            replaced |= {*results_in(unfinished)}
        return str(folder)
    repository, path, revision = parsed_repository(settings.to)
    if path or revision:
        raise ConfigError(f"to={settings.to} must be hf:owner/name, without a file or revision")
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as unfinished, hub_errors(repository, settings.to):
        _write(Path(unfinished), settings, checkpoint, settings.to)
        hub = HfApi()
        place = hub.create_repo(repository, private=settings.private, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=unfinished, commit_message=f"Publish {settings.domain}")
    return str(place)


def _write(folder: Path, settings: PublishSettings, checkpoint: Path, name: str) -> None:
    evaluation = None if settings.evaluation is None else _evaluation(Path(settings.evaluation), checkpoint)
    denoiser, description = _write_weights(folder / RUN_FILE, checkpoint)
    run = checkpoint.parent
    if early_average(checkpoint).is_file():
        _write_weights(folder / early_average(Path(RUN_FILE)), early_average(checkpoint))
    if (config := _config(run, description)) is not None:
        (folder / CONFIG_FILE).write_text(yaml_text(config), encoding="utf-8")
    history = _history(run / HISTORY_FILE)
    pictures = {PurePath(picture).stem: Path(picture) for picture in settings.pictures}
    own = {"previews", "curves", *(evaluation["tasks"] if evaluation else ())} & pictures.keys()
    if own or len(pictures) < len(settings.pictures):
        raise ConfigError(f"each picture of pictures= needs its own name{', not ' * bool(own)}{', '.join(own)}")
    if previews := sorted((run / PREVIEWS).glob("*.png")):
        pictures["previews"] = previews[-1]
    if evaluation is not None:
        figures = Path(settings.evaluation or "", "figures")
        pictures |= {task: figures / f"{task}.png" for task in evaluation["tasks"]}
    for title, picture in pictures.items():
        shutil.copyfile(picture, folder / f"{title}{picture.suffix}")
    if curves := {column: points for column, points in history.items() if column.startswith("val/loss")}:
        named = {
            column: {str(step): (step, loss) for step, loss in points.items()} for column, points in curves.items()
        }
        plot = trade_off_plot(named, title="Validation loss", x_title="steps", y_title="loss", labels=False)
        plot.save(folder / "curves.png")
        pictures["curves"] = Path("curves.png")
    memory = settings.memory
    if memory is None and history.get(MEMORY):
        memory = history[MEMORY][max(history[MEMORY])]
    shown = [
        f"![{title}]({quote(title + picture.suffix)})\n\n*{title.replace('_', ' ').capitalize()}*"
        for title, picture in pictures.items()
    ]
    card = _card(settings, denoiser, description, name, shown, evaluation, memory, config is not None)
    (folder / CARD).write_text(card, encoding="utf-8")


def _write_weights(file: Path, checkpoint: Path) -> tuple[Denoiser, Description]:
    """Writes an editing checkpoint, checked by building its denoiser, and its calibrated t0."""
    description, tensors = read_checkpoint(checkpoint)
    denoiser = assemble_denoiser(description, tensors)
    facts = _without_folders(description.training)
    save_weights(file, tensors, description.model, facts, description.origin)
    if calibrated_t0(checkpoint) is not None:
        found = read_file(sidecar_of(checkpoint))
        known = {key: found.pop(key) for key in ("t0", "checkpoint", "sha256")}
        write_calibration(sidecar_of(file), file, known["t0"], found)
    return denoiser, description


def _without_folders(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _without_folders(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_folders(value) for value in data]
    if not isinstance(data, str):
        return data
    return PurePath(data).name if PurePath(data.replace("~", "/")).is_absolute() else without_passwords(data)


def _config(run: Path, description: Description) -> dict[str, Any] | None:
    config = read_file(run / CONFIG_FILE) if (run / CONFIG_FILE).is_file() else description.training.get("config")
    return _without_folders(config) if isinstance(config, dict) else None


def _history(file: Path) -> dict[str, dict[int, float]]:
    """Column -> step -> value of a run's metrics.csv; empty without one."""
    history: dict[str, dict[int, float]] = {}
    for row in history_rows(file):
        for column, value in row.items():
            if value and column != "step":
                history.setdefault(column, {})[int(row["step"])] = float(value)
    return history


def _evaluation(folder: Path, checkpoint: Path) -> dict[str, Any]:
    if not (folder / "metrics.json").is_file():
        raise ConfigError(f"evaluation={folder} is not a report of `sdedit evaluate`: it holds no metrics.json")
    numbers = read_json(folder / "metrics.json")
    if numbers["ckpt"]["sha256"] != fingerprint(checkpoint):
        raise ConfigError(f"evaluation={folder} measured {numbers['ckpt']['file']}, not the weights of {checkpoint}")
    return numbers


def _card(
    settings: PublishSettings,
    denoiser: Denoiser,
    description: Description,
    name: str,
    pictures: list[str],
    evaluation: Mapping[str, Any] | None,
    memory: float | None,
    has_config: bool,
) -> str:
    image = description.image
    size = f"{image.height} x {image.width}"
    facts = {key: value for key, value in description.training.items() if isinstance(value, int | float | str)}
    head = {
        "license": settings.licence,
        "library_name": "sdedit_pl",
        "pipeline_tag": "image-to-image",
        "tags": ["sdedit", "diffusion", "score-based", "image-editing"],
    }
    guideless = "" if denoiser.t_max < 1 else ", and can also draw samples without a guide"
    training = [f"- {key}: {value}" for key, value in facts.items()]
    if has_config:
        training.append(
            f"- command, with this {CONFIG_FILE}: `sdedit train config={CONFIG_FILE} data=IMAGES out=runs/again`"
        )
    unmeasured = f"Not measured. To measure it: `sdedit evaluate ckpt={name} data=IMAGES out=outputs/evaluation`."
    return f"""---
{yaml_text(head)}---

# {settings.domain}

A score model for [SDEdit](https://arxiv.org/abs/2108.01073): it turns a rough painting into an image of this domain.
{size} px, {image.channels} channels, {description.parameters:,} parameters; for the package `sdedit_pl`.

{(chr(10) * 2).join(pictures)}

## Use

```
pip install 'sdedit-pl[paint]'
sdedit edit ckpt={name} guide=my_painting.png out=outputs/first
sdedit paint ckpt={name}
```

```python
from sdedit_pl import SDEdit, load_denoiser

images = SDEdit(t0=0.5)(load_denoiser("{name}"), guide, seeds=[0, 1])
```

## Training

Images: {settings.images}

{chr(10).join(training)}

## Evaluation

{unmeasured if evaluation is None else _measured(evaluation)}

## Memorisation

{_memory(memory)}

## Limits

- The model knows only its domain and pulls guides far from it towards it.
- It was trained up to noise level {denoiser.highest_noise_level:.3g}{guideless}.
- It takes no text prompts; its images have {size} px; larger pictures are edited in parts (`focus=true`) or windows.
"""


def _measured(evaluation: Mapping[str, Any]) -> str:
    from sdedit_pl.evaluation.report_document import markdown_table
    from sdedit_pl.evaluation.report_sections import METHOD_TITLES, TASK_TITLES, few_images, measures_table

    parts = [f"{few_images(evaluation['images']['count'])} Features: {evaluation['features']['name']}."]
    for task, found in evaluation["tasks"].items():
        rows = {str(METHOD_TITLES.get(method, method)): measures for method, measures in found.items()}
        parts += [f"{TASK_TITLES.get(task, task)}:", markdown_table(measures_table(rows, "method"))]
    pairs = (word.partition("=") for word in shlex.split(evaluation["command"]))
    command = shlex.join(f"{key}{sign}{_without_folders(value)}" for key, sign, value in pairs)
    return "\n\n".join([*parts, f"Command: `{command}`"])


def _memory(ratio: float | None) -> str:
    if ratio is None:
        return "Not measured: how close its images are to the training images is unknown."
    return (
        f"Edits from high noise are {ratio:.2f} times as far from the nearest training image as unseen images of the "
        f"domain are (median, `{MEMORY}`). The model "
        + ("closely repeats many training images." if ratio < SUSPECT_RATIO else "makes images nearly as new as those.")
    )
