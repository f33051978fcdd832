"""Images for training and validation: sources, their order and the Lightning data module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdedit_pl.lazy_names import lazy_names

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "datamodule": "ImageDataModule",
        "folder_source": "FolderSource",
        "image_files": "UnreadableImage",
        "source": "Source",
        "source_table": "DATA_SOURCES",
        "torchvision_source": "TorchvisionSource",
        "webdataset_source": "WebDatasetSource",
    },
)
