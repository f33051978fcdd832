"""Images for training and validation: sources, their order and the Lightning data module."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdedit_pl.data.datamodule import ImageDataModule
    from sdedit_pl.data.folder_source import FolderSource
    from sdedit_pl.data.image_files import UnreadableImage
    from sdedit_pl.data.source import Source
    from sdedit_pl.data.source_table import DATA_SOURCES
    from sdedit_pl.data.torchvision_source import TorchvisionSource
    from sdedit_pl.data.webdataset_source import WebDatasetSource

__all__ = [
    "DATA_SOURCES",
    "FolderSource",
    "ImageDataModule",
    "Source",
    "TorchvisionSource",
    "UnreadableImage",
    "WebDatasetSource",
]

_HOMES = {
    "DATA_SOURCES": "source_table",
    "FolderSource": "folder_source",
    "ImageDataModule": "datamodule",
    "Source": "source",
    "TorchvisionSource": "torchvision_source",
    "UnreadableImage": "image_files",
    "WebDatasetSource": "webdataset_source",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: reading a guide must not load Lightning and torchvision."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
