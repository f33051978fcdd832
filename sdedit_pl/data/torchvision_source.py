"""torchvision's data sets as a source."""

from __future__ import annotations

import inspect
import os
from typing import Any

import numpy as np
import torchvision
from filelock import FileLock
from PIL import Image

from sdedit_pl.data.image_decoding import image_to_tensor
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import Fit, ImageFormat, Size
from sdedit_pl.data.source import ImageSet, SelectedImages, Source
from sdedit_pl.data.splits import SPLITS, check_split, held_out
from sdedit_pl.typing import Pixels

# torchvision's errors on absent or damaged files and wrong arguments.
_REFUSALS = (RuntimeError, OSError, ValueError, TypeError)


class TorchvisionSource(Source):
    """The images of a torchvision data set; data.labels=targets reads its labels.

    Validation images are those of `train=False` if the class has that argument, those of `split=val_split` if it is
    given, or else a share `val_fraction` of the training images, chosen by a hash of their numbers.

    Args:
        dataset: Class in torchvision.datasets, such as CIFAR10.
        root: Folder of the data set.
        download: Whether to download the data set if it is not there.
        train_split: Value of the class's `split` argument for training; null for the class's default.
        val_split: Value of the class's `split` argument for validation.
        val_fraction: Share of the images held out for validation if the class has no split for it; 0 for none.
    """

    def __init__(
        self,
        dataset: str,
        size: Size,
        root: str = "data/torchvision",
        download: bool = False,
        channels: int = 3,
        train_split: str | None = None,
        val_split: str | None = None,
        val_fraction: float = 0.05,
        background: str = "white",
        random_crop: int = 0,
        broken_limit: int | None = None,
        fit: Fit = "crop",
    ) -> None:
        super().__init__(ImageFormat(size, channels, background, random_crop, fit), broken_limit)
        if dataset not in torchvision.datasets.__all__:
            raise ValueError(
                f"torchvision.datasets has no {dataset!r}; it has {', '.join(torchvision.datasets.__all__)}"
            )
        self.dataset = dataset
        self.root = root
        self.download = download
        self.train_split = train_split
        self.val_split = val_split
        self.val_fraction = val_fraction

    def prepare(self) -> None:
        if self.download:
            for split in SPLITS:
                self.images(split)

    def images(self, split: str) -> ImageSet:
        check_split(split)
        is_val = split == "val"
        known = set(inspect.signature(getattr(torchvision.datasets, self.dataset)).parameters)
        if "train" in known:
            return self._open(known, train=not is_val)
        if (self.train_split is not None or self.val_split is not None) and "split" not in known:
            raise ValueError(f"torchvision's {self.dataset} has no splits; leave train_split and val_split empty")
        if is_val and self.val_split is not None:
            return self._open(known, split=self.val_split)
        train = self._open(known, **({} if self.train_split is None else {"split": self.train_split}))
        if self.val_split is not None:
            return train
        chosen = np.array(held_out([str(index) for index in range(len(train))], self.val_fraction), dtype=bool)
        return SelectedImages(train, np.flatnonzero(chosen == is_val))

    def _open(self, known: set[str], **split: bool | str) -> TorchvisionImages:
        opened = getattr(torchvision.datasets, self.dataset)
        places = {"root": self.root, "download": self.download}
        arguments = {name: value for name, value in places.items() if name in known} | split
        try:
            if arguments.get("download"):
                os.makedirs(self.root, exist_ok=True)
                # Only one of several concurrent processes downloads the set.
                with FileLock(os.path.join(self.root, f".{self.dataset}.lock")):
                    try:
                        dataset = opened(**arguments | {"download": False})
                    except _REFUSALS:
                        dataset = opened(**arguments)
            else:
                dataset = opened(**arguments)
        except _REFUSALS as error:
            raise ValueError(
                f"cannot open torchvision's {self.dataset} in {self.root}: {error}; download=true fetches most sets"
            ) from error
        return TorchvisionImages(dataset, self.dataset, self.format)


class TorchvisionImages(ImageSet):
    """A torchvision data set whose items begin with a Pillow image; `title` names it in messages."""

    def __init__(self, dataset: Any, title: str, image_format: ImageFormat) -> None:
        self.dataset = dataset
        self.title = title
        self.format = image_format

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return f"{self.title} image {index}"

    def key(self, index: int) -> str:
        return str(index)

    def stored_labels(self, place: str) -> list[str | None]:
        """Names or numbers of the classes in the data set's `targets` or `labels`."""
        targets = getattr(self.dataset, "targets", getattr(self.dataset, "labels", None))
        if place != "targets" or targets is None:
            return super().stored_labels(place)
        numbers = [int(target) for target in targets]
        names = getattr(self.dataset, "classes", None) or [str(number) for number in range(max(numbers) + 1)]
        return [str(names[number]) for number in numbers]

    def read(self, index: int) -> Pixels:
        try:
            item = self.dataset[index]
        except (OSError, SyntaxError, EOFError) as error:
            raise UnreadableImage(f"cannot read {self.name(index)}: {error}") from None
        image = item[0] if isinstance(item, tuple) else item
        if not isinstance(image, Image.Image):
            raise ValueError(f"torchvision's {self.title} gives {type(image).__name__}, expected Pillow images")
        return image_to_tensor(image, self.name(index), self.format)
