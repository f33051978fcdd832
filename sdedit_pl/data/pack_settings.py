"""The arguments of `sdedit pack`; this module imports no image library, for a fast `--help`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sdedit_pl.data.image_format import ImageShape, PixelFormat, Size
from sdedit_pl.data.splits import held_out


@dataclass(frozen=True)
class PackSettings:
    """Packs images into shards.

    Args:
        data: Folder of images, archive (.zip, .tar, .tar.gz ...), or torchvision:CLASS.
        out: Folder of the shards and their manifest.json.
        size: Height and width in pixels that training will use, one number for both or height,width.
        fit: crop takes the largest central part; resize changes an image's proportions; random_crop takes the central
            part with a margin, from which training cuts random parts.
        margin: Pixels of the margin of random_crop; null for an eighth of the shorter side of `size`.
        channels: 3 for RGB, 1 for grey, others with a `format`.
        background: Colour under transparent pixels, a name or #rrggbb.
        encoding: png (exact), jpeg or webp; with a `format`, images become .tif files.
        quality: Quality of jpeg and webp, 1 to 100; webp at 100 is exact.
        val_fraction: Share of the images for validation if they are not in folders train and val; 0 for none.
        duplicates: Images that are equal in every pixel: keep and report them, or drop all but the first.
        labels: Where the labels are: folders, FILE.csv:COLUMN or targets (data.labels of sdedit train); null for none.
        samples: Images per shard.
        processes: Processes that decode and encode; null for one per core.
        root: Folder of a torchvision data set.
        download: Whether to download a torchvision data set that is not there.
        format: Type and bands of data that are not 8-bit photographs, format.dtype=... as in data.format.dtype.
    """

    data: str
    out: str
    size: Size
    fit: Literal["crop", "resize", "random_crop"] = "crop"
    margin: int | None = None
    channels: int = 3
    background: str = "white"
    encoding: Literal["png", "jpeg", "webp"] = "png"
    quality: int = 95
    val_fraction: float = 0.05
    duplicates: Literal["keep", "drop"] = "keep"
    labels: str | None = None
    samples: int = 2000
    processes: int | None = None
    root: str = "data/torchvision"
    download: bool = False
    format: PixelFormat | None = None

    def __post_init__(self) -> None:
        if self.margin is not None and self.fit != "random_crop":
            raise ValueError(f"margin needs fit=random_crop, got fit={self.fit}")
        for name, value in (("samples", self.samples), ("processes", self.processes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        held_out([], self.val_fraction)  # raises for a value outside its range

    @property
    def margin_pixels(self) -> int:
        """The margin around `size` in the shards; 0 without random crops."""
        if self.fit != "random_crop":
            return 0
        return min(ImageShape(self.size, 1).sides) // 8 if self.margin is None else self.margin

    def recorded(self) -> dict[str, Any]:
        """The settings that the shards depend on, besides the originals."""
        elsewhere = ("data", "out", "labels", "processes", "root", "download", "format")
        recorded = {key: value for key, value in asdict(self).items() if key not in elsewhere}
        return recorded if self.format is None else {**recorded, "format": repr(self.format)}
