"""Published weights of the networks of metrics, found on this machine or downloaded once, and checked by their hash.

Numbers are comparable with published ones only if the weights are bit-identical.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sdedit_pl.downloads import DownloadFailed, download_once
from sdedit_pl.files import sha256_of


class WeightsUnavailable(ValueError):
    """Weights that cannot be found or downloaded, or have another hash."""


@dataclass(frozen=True)
class PublishedWeights:
    """A published file of weights; `sha256` is hexadecimal, or its first digits if the publisher gives no more.

    `other_names` are the file's names at other publishers, `key` the setting that gives the path of a copy.
    """

    url: str
    sha256: str
    other_names: tuple[str, ...] = ()
    key: str = "features.weights"

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def file(self, given: str | None = None) -> Path:
        """`given`, or the file in torch.hub's cache, downloaded if necessary; raises WeightsUnavailable."""
        if given is not None:
            return self._checked(Path(given).expanduser())
        folder = Path(torch.hub.get_dir(), "checkpoints")
        found = next((folder / name for name in (self.name, *self.other_names) if (folder / name).is_file()), None)
        return self._checked(found or self._fetched(folder))

    def _checked(self, file: Path) -> Path:
        try:
            found = sha256_of(file)
        except OSError as error:
            raise WeightsUnavailable(
                f"{file} cannot be read ({error.strerror}); {self.key}= takes the path of {self.name}"
            ) from error
        if not found.startswith(self.sha256):
            raise WeightsUnavailable(
                f"{file} has sha256 {found}, but that of {self.name} begins with {self.sha256}: another release or "
                f"damaged; remove it, and download {self.url} again"
            )
        return file

    def _fetched(self, folder: Path) -> Path:
        file = folder / self.name
        try:
            download_once(self.url, file, self.sha256)
        except (OSError, DownloadFailed) as error:
            raise WeightsUnavailable(
                f"the weights {self.name} are missing, and {self.url} cannot be downloaded ({error}); copy the file "
                f"here and give its path as {self.key}=, or put it into {folder}"
            ) from error
        return file
