"""Images for training and validation: sources, their order, and the Lightning data module over them."""

from __future__ import annotations

from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.data.folder_source import FolderSource
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.source import Source
from sdedit_pl.data.torchvision_source import TorchvisionSource
from sdedit_pl.data.webdataset_source import WebDatasetSource

DATA_SOURCES: dict[str, type[Source]] = {
    "folder": FolderSource,
    "webdataset": WebDatasetSource,
    "torchvision": TorchvisionSource,
}

__all__ = [
    "DATA_SOURCES",
    "FolderSource",
    "ImageDataModule",
    "Source",
    "TorchvisionSource",
    "UnreadableImage",
    "WebDatasetSource",
]
