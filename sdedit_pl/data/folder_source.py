"""Images in a folder and its sub-folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from sdedit_pl.data.array_formats import suffixes_of
from sdedit_pl.data.image_decoding import decode_image
from sdedit_pl.data.image_files import IMAGE_SUFFIXES, list_images
from sdedit_pl.data.image_format import Fit, ImageFormat, ImageShape, PixelFormat, Size
from sdedit_pl.data.source import ImageSet, Source
from sdedit_pl.data.splits import check_split, held_out
from sdedit_pl.typing import Pixels


class FolderSource(Source):
    """Image files in a folder and its sub-folders, in the order of their relative paths.

    Validation images are, in this order of preference: those under `val_path`; those under `path/val` if `path/train`
    exists too (training then takes `path/train` alone); or a share `val_fraction` of the images, chosen by a hash of
    their relative paths. Training omits a `val_path` in `path`. Hidden files and folders are skipped, links followed.

    Args:
        path: Folder of images.
        val_path: Folder of validation images.
        val_fraction: Share of images held out for validation, without train and val folders or `val_path`; 0 for none.
    """

    def __init__(
        self,
        path: str,
        size: Size,
        channels: int = 3,
        val_path: str | None = None,
        val_fraction: float = 0.05,
        background: str = "white",
        random_crop: int = 0,
        broken_limit: int | None = None,
        fit: Fit = "crop",
        format: PixelFormat | None = None,
    ) -> None:
        super().__init__(ImageFormat(size, channels, background, random_crop, fit, format=format), broken_limit)
        self.path = path
        self.val_path = val_path
        self.val_fraction = val_fraction

    def images(self, split: str) -> ImageSet:
        check_split(split)
        root = Path(self.path)
        if self.val_path is not None:
            return self._images_besides_val_path(split, Path(self.val_path))
        folder = split_folder(root, split)
        if folder is not None:
            return FolderImages(folder, self._paths(folder), self.format)
        paths = self._paths(root)
        chosen = held_out(paths, self.val_fraction)
        wanted = [path for path, is_val in zip(paths, chosen, strict=True) if is_val == (split == "val")]
        return FolderImages(root, wanted, self.format)

    def _paths(self, root: Path) -> list[str]:
        return image_paths(root, self.format)

    def _images_besides_val_path(self, split: str, val_root: Path) -> ImageSet:
        if split == "val":
            return FolderImages(val_root, self._paths(val_root), self.format)
        root = Path(self.path)
        real_val_root = val_root.resolve()
        paths = [path for path in self._paths(root) if real_val_root not in (root / path).resolve().parents]
        if not paths:
            raise ValueError(f"all images under {root} lie in val_path {val_root}; training needs images of its own")
        return FolderImages(root, paths, self.format)


def split_folder(root: Path, split: str) -> Path | None:
    return root / split if (root / "train").is_dir() and (root / "val").is_dir() else None


class FolderImages(ImageSet):
    """Image files under a folder; workers share the array of relative paths without copying."""

    def __init__(self, root: Path, paths: list[str], image_format: ImageFormat) -> None:
        self.root = root
        self.paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        self.format = image_format

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[index]))

    def key(self, index: int) -> str:
        return os.fsdecode(self.paths[index])

    def read(self, index: int) -> Pixels:
        return decode_image(Path(self.name(index)), self.name(index), self.format)


def image_paths(root: Path, shape: ImageShape | None = None) -> list[str]:
    """Lists the images under a folder, and files of values if `shape` has a format; raises ValueError without any."""
    if not root.exists():
        raise ValueError(f"data folder {root} does not exist")
    if not root.is_dir():
        raise ValueError(f"{root} is a file, expected a folder of images; for .tar shards use data.name=webdataset")
    suffixes = IMAGE_SUFFIXES if shape is None else suffixes_of(shape)
    paths = list_images(root, recursive=True, suffixes=suffixes)
    if not paths:
        raise ValueError(f"no images under {root}; expected files that end in {', '.join(suffixes)}")
    return paths
