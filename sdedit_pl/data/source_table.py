"""The data sources by their `name:` in configurations."""

from __future__ import annotations

from sdedit_pl.data.folder_source import FolderSource
from sdedit_pl.data.source import Source
from sdedit_pl.data.torchvision_source import TorchvisionSource
from sdedit_pl.data.webdataset_source import WebDatasetSource

DATA_SOURCES: dict[str, type[Source]] = {
    "folder": FolderSource,
    "webdataset": WebDatasetSource,
    "torchvision": TorchvisionSource,
}
