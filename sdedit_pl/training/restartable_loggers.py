"""Loggers that keep one history over all restarts of a run, without gaps or duplicates.

A killed run has logged steps that no checkpoint holds, and the resumed run logs them again. The CSV file drops the old
rows. The others cannot delete an entry, so they do not receive the same entry twice.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor

from sdedit_pl.files import read_json, whole_file, write_whole

logger = logging.getLogger(__name__)


class CsvHistory(Logger):
    """Writes a CSV file with a row for each log entry and a column `step`, the optimiser step counted from 0.

    Rows of steps from `steps` on, which the resumed weights have not taken, are dropped. An entry logged again for an
    earlier step, such as a repeated validation, replaces its row. Rows that a full disk refuses are written later.
    """

    def __init__(self, path: Path, steps: int = 0) -> None:
        super().__init__()
        self.path = path
        self.failure: str | None = None
        self._columns = ["step"]
        self._unwritten: list[dict[str, Any]] = []
        self._steps = steps
        self._drop_later_rows()

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> None:
        """None: all restarts write to the same file."""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run's folder holds the configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Writes a row before it returns, unless the disk is full."""
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        values.pop("epoch", None)  # added by Lightning; a run is one endless epoch
        self._unwritten.append({"step": step, **values})
        earlier, self.failure = self.failure, None
        try:
            self._write()
        except OSError as error:
            self.failure = f"{self.path} cannot be written: {error.strerror}"
        except ValueError as error:  # another program has changed the file
            self.failure = str(error)
        else:
            self._unwritten = []
        if self.failure is not None and earlier is None:
            logger.warning("%s; rows are kept in memory until it can be written", self.failure)

    @rank_zero_only
    def _drop_later_rows(self) -> None:
        rows = history_rows(self.path)
        if rows:
            self._columns = list(rows[0])
            self._rewrite([row for row in rows if int(row["step"]) < self._steps])

    def _write(self) -> None:
        new = [name for row in self._unwritten for name in row if name not in self._columns]
        again = any(row["step"] < self._steps for row in self._unwritten)
        if new or again or not self.path.is_file():
            rows = [row for row in history_rows(self.path) if not any(_same(row, later) for later in self._unwritten)]
            self._columns += dict.fromkeys(new)
            self._rewrite([*rows, *self._unwritten])
            return
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerows(self._unwritten)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(self.path, size)
            raise

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with whole_file(self.path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def history_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a run's history, without an incomplete last one; raises ValueError for a file of another program."""
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    except (UnicodeDecodeError, csv.Error):
        rows = [{}]
    if not all((row.get("step") or "").isdecimal() and None not in row for row in rows):
        raise ValueError(
            f"{path} is not a table as training writes it, with commas and a column `step`; restore it, or "
            "move it away to begin a new one"
        )
    return rows


def _same(row: Mapping[str, str], later: Mapping[str, Any]) -> bool:
    return row["step"] == str(later["step"]) and {name for name, value in row.items() if value} == later.keys()


class Continued(Logger):
    """Lets a logger of Lightning continue the history of earlier processes that trained in the same folder.

    The JSON file `memory` holds the run's id and the last logged step of each quantity. The logger takes the id as
    `id_argument`, and `settings` are its other arguments.
    """

    def __init__(self, memory: Path, id_argument: str, **settings: Any) -> None:
        self.memory = memory
        remembered = read_json(memory) if memory.is_file() else {}
        self._given: dict[str, int] = remembered.get("logged", {})
        super().__init__(**{id_argument: remembered.get("id"), **settings})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Logs the quantities that have no entry yet for this step or a later one."""
        new = {name: value for name, value in metrics.items() if self._is_new(name, step)}
        if new:
            super().log_metrics(new, step)
            self.remember(new, step)

    @rank_zero_only
    def remember(self, names: Iterable[str] = (), step: int | None = None) -> None:
        if step is not None:
            self._given |= dict.fromkeys(names, step)
        try:
            write_whole(self.memory, json.dumps({"id": self.version, "logged": self._given}))
        except OSError as error:
            logger.warning("%s cannot be written (%s): a resumed run may log points twice", self.memory, error.strerror)

    def close(self, succeeded: bool) -> None:
        """Ends the run if Lightning does not."""

    def _is_new(self, name: str, step: int | None) -> bool:
        return step is None or step > self._given.get(name, -1)


class ContinuedWandb(Continued, WandbLogger):
    """Weights & Biases. The x axis of its curves is the optimiser step, because W&B's own counter cannot go back."""

    def __init__(self, memory: Path, **settings: Any) -> None:
        super().__init__(memory, "id", resume="allow", **settings)

    def close(self, succeeded: bool) -> None:
        self.experiment.finish(exit_code=0 if succeeded else 1)


class ContinuedTensorBoard(Continued, TensorBoardLogger):
    """TensorBoard: each process adds a file of events to `folder`."""

    def __init__(self, memory: Path, folder: Path) -> None:
        super().__init__(memory, "version", version=folder.name, save_dir=folder.parent, name="")

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Logs the configuration as text: TensorBoard would lose the values of a resumed run."""
        self.experiment.add_text("config", f"```\n{yaml.safe_dump(params, sort_keys=False)}```")

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[str], step: int) -> None:
        if self._is_new(key, step):
            for path in images:
                self.experiment.add_image(key, np.asarray(Image.open(path)), step, dataformats="HWC")
            self.remember([key], step)

    @rank_zero_only
    def remember(self, names: Iterable[str] = (), step: int | None = None) -> None:
        self.save()  # before the memory claims that it is logged
        super().remember(names, step)

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()


class ContinuedMlflow(Continued, MLFlowLogger):
    """MLflow: the server at MLFLOW_TRACKING_URI, or files in `folder`."""

    def __init__(self, memory: Path, folder: Path, run_name: str) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        super().__init__(
            memory,
            "run_id",
            run_name=run_name,
            experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", "sdedit_pl"),
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or folder.absolute().as_uri(),
        )

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Logs the first start's parameters, which MLflow never changes, and the current configuration as a file."""
        from mlflow.exceptions import MlflowException

        try:
            if not self.memory.is_file():
                super().log_hyperparams({**params})
            self.experiment.update_run(self.run_id, status="RUNNING")
            self.experiment.log_dict(self.run_id, {**params}, "config.yaml")
        except MlflowException as error:
            raise ValueError(
                f"logger=mlflow: {str(error).splitlines()[0]}; check MLFLOW_TRACKING_URI, or remove {self.memory} to "
                "begin a new run of MLflow"
            ) from error

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        # MLflow's files cannot hold both val/loss and val/loss/sigma_0-0.1: a file would be a folder.
        named = {name.replace("/", ".").replace(".", "/", 1): value for name, value in metrics.items()}
        with _training_continues():
            super().log_metrics(named, step)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[str], step: int) -> None:
        with _training_continues():
            for path in images:
                self.experiment.log_artifact(self.run_id, path, key)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        with _training_continues():
            super().finalize(status)


@contextmanager
def _training_continues() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        logger.warning("MLflow did not accept an entry; training continues: %s", str(error).splitlines()[0])
