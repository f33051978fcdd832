"""The interface of an importer. Importers read files only through `safe_reading`, which runs no code from them."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sdedit_pl.checkpoints.native import Description
from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.files import sha256_of


@dataclass(frozen=True)
class Imported:
    """A foreign checkpoint in this package's terms.

    Args:
        weights: the network's state dict under our names, on the CPU, of the types in the file.
        origin: data for JSON: format, preset, file, sha256, weights (ema or raw), sampling, ...
        used: our name of each tensor -> the names in the file that it is made of.
        ignored: name in the file -> why it is not needed.
    """

    model: ModelConfig
    weights: dict[str, Tensor]
    origin: dict[str, Any]
    used: Mapping[str, tuple[str, ...]]
    ignored: Mapping[str, str]

    def description(self, path: Path) -> Description:
        origin = {key: value for key, value in self.origin.items() if key != "training"}
        format, training = origin["format"], self.origin.get("training", {})
        return Description.of(path, format, self.model, training, origin, self.weights)


class CheckpointFormat(abc.ABC):
    @abc.abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether `path` looks like this format. Cheap; runs no code from it."""

    def read(
        self, path: Path, *, weights: str = "ema", preset: str | None = None, config: Mapping[str, Any] | None = None
    ) -> Imported:
        """Reads a file or folder strictly: every tensor is used exactly once, or listed with the reason to ignore it.

        Raises CheckpointError if it is damaged, holds code, or does not fit the preset or configuration.

        Args:
            weights: "ema", the averaged weights, or "raw"; ignored for a file that holds one set only.
            config: the configuration published with it; without config and preset, the file determines the model.
        """
        return self._read(path, weights, preset, config)

    @abc.abstractmethod
    def _read(self, path: Path, weights: str, preset: str | None, config: Mapping[str, Any] | None) -> Imported:
        pass


@contextmanager
def published_configuration() -> Iterator[None]:
    """Raises CheckpointError for a missing key or a value of the wrong type in a published configuration."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"the published configuration lacks {error}") from error
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"the published configuration has a value of the wrong type: {error}") from error


def origin_of(path: Path, format: str, **facts: Any) -> dict[str, Any]:
    """The `origin` of an imported checkpoint; facts that are None are omitted."""
    known = {key: value for key, value in facts.items() if value is not None}
    return {"format": format, "file": path.name, "sha256": sha256_of(path), **known}
