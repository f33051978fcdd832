"""File formats of values that are not 8-bit pictures, recognised by their content.

Values keep their type; results keep the metadata of the file: geotransform, affine, spacing, resolution.
"""

from __future__ import annotations

import abc
import gzip
import hashlib
import io
import re
import zipfile
import zlib
from copy import deepcopy
from fractions import Fraction
from importlib import import_module
from pathlib import PurePath
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sdedit_pl.data.image_files import DECODING_ERRORS, IMAGE_SUFFIXES, UnreadableImage, max_pixels
from sdedit_pl.data.image_format import ImageShape

_GEO_KEYS = 34735


class StoredValues(NamedTuple):
    """The values (H, W, C) of a file, and the metadata that a result keeps."""

    values: np.ndarray
    metadata: Any = None


class Placement(NamedTuple):
    """The part of a file that a result shows: upper left corner and pixel size, in pixels of the file."""

    left: float
    top: float
    width: float
    height: float


class ArrayFormat(abc.ABC):
    """A file format; `package` is an optional module that reads it, installed with the extra `extra`."""

    suffixes: ClassVar[tuple[str, ...]]
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    @abc.abstractmethod
    def recognises(self, content: bytes) -> bool:
        """Whether `content` has this format."""

    @abc.abstractmethod
    def read(self, content: bytes) -> StoredValues:
        """Decodes a file; raises ValueError or OSError with the reason, or a decoder's own error, if it is damaged."""

    @abc.abstractmethod
    def write(self, values: np.ndarray, metadata: Any) -> bytes:
        """Encodes values (H, W, C); `metadata` is that of the file they were made from, or None."""

    def metadata_of_part(self, metadata: Any, box: Placement) -> Any:
        return metadata

    def window(self, content: bytes) -> tuple[float, float] | None:
        """The display window (low, high) that the file states."""
        return None

    def module(self) -> Any:
        """Imports `package`; raises ValueError if it is not installed."""
        try:
            return import_module(self.package)
        except ModuleNotFoundError:
            install = f"pip install 'sdedit-pl[{self.extra}]'"
            raise ValueError(f"its format needs {self.package.partition('.')[0]}; {install}") from None


class Npy(ArrayFormat):
    """NumPy's .npy: (H, W) or (H, W, C)."""

    suffixes = (".npy",)

    def recognises(self, content: bytes) -> bool:
        return content.startswith(b"\x93NUMPY")

    def read(self, content: bytes) -> StoredValues:
        """Parses the header here: NumPy's parser is not safe in threads on CPython 3.11 (python/cpython#106905)."""
        width = 2 if content[6] == 1 else 4
        start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
        header = content[8 + width : start].decode("latin1")
        kind = re.search(r"'descr': '([<>|=][biuf]\d+)'", header)
        shape = re.search(r"'shape': \(([\d, ]*)\)", header)
        if kind is None or shape is None:
            raise ValueError("it holds objects or records, expected an array of numbers")
        sides = tuple(int(side) for side in shape[1].split(",") if side.strip())
        order = "F" if "'fortran_order': True" in header else "C"
        values = np.frombuffer(content, np.dtype(kind[1]), offset=start)
        return StoredValues(values[: int(np.prod(sides, dtype=object))].reshape(sides, order=order))

    def write(self, values: np.ndarray, metadata: Any) -> bytes:
        file = io.BytesIO()
        np.save(file, values[..., 0] if values.shape[-1] == 1 else values)
        return file.getvalue()


class Npz(Npy):
    """NumPy's .npz with one array, or one called image."""

    suffixes = (".npz",)

    def recognises(self, content: bytes) -> bool:
        return content.startswith(b"PK\x03\x04")

    def read(self, content: bytes) -> StoredValues:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
                chosen = names[0] if len(names) == 1 else "image.npy"
                if chosen not in names:
                    raise ValueError(
                        f"it holds the arrays {', '.join(names) or 'none'}, expected one, or one called image"
                    )
                if archive.getinfo(chosen).file_size > 64 * max_pixels():
                    raise ValueError(f"it declares {archive.getinfo(chosen).file_size:,} bytes; raise max_pixels=")
                return StoredValues(super().read(archive.read(chosen)).values, chosen)
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from None

    def write(self, values: np.ndarray, metadata: Any) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # with a fixed time
            archive.writestr(
                zipfile.ZipInfo(metadata or "image.npy"), super().write(values, None), zipfile.ZIP_DEFLATED
            )
        return file.getvalue()


class Tiff(ArrayFormat):
    """TIFF; results keep resolution, description and the kind of the bands."""

    suffixes = (".tif", ".tiff")

    def recognises(self, content: bytes) -> bool:
        return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

    def read(self, content: bytes) -> StoredValues:
        import tifffile

        try:
            with tifffile.TiffFile(io.BytesIO(content)) as file:
                page, axes = file.series[0].keyframe, file.series[0].axes
                others = axes.replace("Y", "").replace("X", "")
                if len(others) > 1 or sorted(axes.replace(others, "")) != ["X", "Y"]:
                    raise ValueError(f"it has the axes {axes}, expected one image of height Y, width X and bands")
                values = file.series[0].asarray().transpose([axes.index(axis) for axis in "YX" + others])
                kept = ("ImageDescription", "XResolution", "YResolution", "ResolutionUnit")
                metadata = {name: page.tags[name].value for name in kept if name in page.tags}
                metadata["photometric"], metadata["extrasamples"] = page.photometric, page.extrasamples
        except tifffile.TiffFileError as error:
            raise ValueError(str(error)) from None
        except ValueError as error:
            if "imagecodecs" in str(error):
                raise ValueError("its compression needs imagecodecs; pip install imagecodecs") from None
            raise
        return StoredValues(values, metadata)

    def metadata_of_part(self, metadata: Any, box: Placement) -> Any:
        metadata = dict(metadata)
        for name, size in (("XResolution", box.width), ("YResolution", box.height)):
            if all(metadata.get(name, [0])):
                resolution = Fraction(*metadata[name]) / Fraction(size)
                metadata[name] = resolution.limit_denominator(10**6).as_integer_ratio()
        return metadata

    def write(self, values: np.ndarray, metadata: Any) -> bytes:
        import tifffile

        file, bands, metadata = io.BytesIO(), values.shape[-1], metadata or {}
        photograph = bands == 3 and values.dtype == np.uint8 and not metadata
        colours = 3 if photograph or (metadata.get("photometric") == tifffile.PHOTOMETRIC.RGB and bands >= 3) else 1
        kinds = (*metadata.get("extrasamples", ()), *[0] * bands)[: bands - colours]
        resolution = (metadata["XResolution"], metadata["YResolution"]) if "XResolution" in metadata else None
        tifffile.imwrite(
            file,
            values[..., 0] if bands == 1 else values,
            photometric="rgb" if colours == 3 else "minisblack",
            planarconfig="contig" if bands > 1 else None,
            extrasamples=kinds or None,
            resolution=resolution,
            resolutionunit=metadata.get("ResolutionUnit"),
            description=metadata.get("ImageDescription"),
            metadata=None,
        )
        return file.getvalue()


class GeoTiff(Tiff):
    """GeoTIFF; pixels without data are NaN, and results keep the coordinate system, transform, tags and band names."""

    package, extra = "rasterio", "geo"

    def recognises(self, content: bytes) -> bool:
        import tifffile

        if not super().recognises(content):
            return False
        try:
            with tifffile.TiffFile(io.BytesIO(content)) as file:
                return _GEO_KEYS in file.pages[0].tags
        except (tifffile.TiffFileError, *DECODING_ERRORS, ArithmeticError):
            return False

    def read(self, content: bytes) -> StoredValues:
        rasterio = self.module()
        try:
            with rasterio.MemoryFile(content) as memory, memory.open() as file:
                values = file.read(masked=file.nodata is not None)
                metadata = {"profile": dict(file.profile), "tags": file.tags(), "bands": file.descriptions}
        except rasterio.errors.RasterioError as error:
            raise ValueError(str(error)) from None
        if np.ma.is_masked(values):
            values = values.astype(np.float32).filled(np.nan)
        return StoredValues(np.asarray(values).transpose(1, 2, 0), metadata)

    def metadata_of_part(self, metadata: Any, box: Placement) -> Any:
        place = metadata["profile"]["transform"]
        moved = type(place)(box.width, 0, box.left, 0, box.height, box.top)
        return {**metadata, "profile": {**metadata["profile"], "transform": place * moved}}

    def write(self, values: np.ndarray, metadata: Any) -> bytes:
        if metadata is None:
            return super().write(values, metadata)
        rasterio, bands = self.module(), values.transpose(2, 0, 1)
        profile = {**metadata["profile"], "dtype": bands.dtype, "count": len(bands)}
        profile |= {"height": bands.shape[1], "width": bands.shape[2]}
        if profile.get("nodata") is not None and np.issubdtype(bands.dtype, np.floating):
            bands = np.where(np.isnan(bands), bands.dtype.type(profile["nodata"]), bands)
        with rasterio.MemoryFile() as memory:
            with memory.open(**profile) as file:
                file.write(bands)
                file.update_tags(**metadata["tags"])
                for number, name in enumerate(metadata["bands"][: len(bands)], 1):
                    file.set_band_description(number, name or "")
            return bytes(memory.read())


class Dicom(ArrayFormat):
    """A DICOM image of one frame: values after rescale slope and intercept; results keep the other elements."""

    suffixes = (".dcm",)
    package, extra = "pydicom", "dicom"

    def recognises(self, content: bytes) -> bool:
        return content[128:132] == b"DICM"

    def read(self, content: bytes) -> StoredValues:
        data = self.module().dcmread(io.BytesIO(content))
        if int(getattr(data, "NumberOfFrames", 1) or 1) > 1:
            raise ValueError(f"it has {data.NumberOfFrames} frames, expected one; save each as a separate file")
        try:
            stored = data.pixel_array
        except (AttributeError, NotImplementedError, RuntimeError) as error:
            syntax = data.file_meta.TransferSyntaxUID
            if syntax.is_compressed:
                raise ValueError(
                    f"no installed plug-in decodes its transfer syntax, {syntax.name}; pip install 'sdedit-pl[dicom]' "
                    "pylibjpeg[all], or decompress it first"
                ) from None
            raise ValueError(str(error)) from None
        slope, intercept = _rescaling(data)
        return StoredValues(
            stored if (slope, intercept) == (1, 0) else (stored * slope + intercept).astype(np.float32), data
        )

    def window(self, content: bytes) -> tuple[float, float] | None:
        """The first window, as the VOI LUT function LINEAR maps it; other functions and tables are not applied."""
        data = self.module().dcmread(io.BytesIO(content), stop_before_pixels=True)
        try:
            centre, width = (float(np.atleast_1d(data.get(name) or 0)[0]) for name in ("WindowCenter", "WindowWidth"))
        except (ValueError, NotImplementedError):  # no number; the image can still be edited
            return None
        if not (width > 1 and np.isfinite(centre + width)):
            return None
        low, high = centre - width / 2, centre + width / 2 - 1
        return (high, low) if data.get("PhotometricInterpretation") == "MONOCHROME1" else (low, high)

    def metadata_of_part(self, metadata: Any, box: Placement) -> Any:
        data, spacing = deepcopy(metadata), [float(size) for size in getattr(metadata, "PixelSpacing", None) or (1, 1)]
        if "PixelSpacing" in data:
            data.PixelSpacing = [f"{spacing[0] * box.height:.9g}", f"{spacing[1] * box.width:.9g}"]
        if "ImagePositionPatient" in data and "ImageOrientationPatient" in data:
            along, down = np.array(data.ImageOrientationPatient, float).reshape(2, 3)  # a row, and a column
            moved = spacing[1] * _centre(box.left, box.width) * along + spacing[0] * _centre(box.top, box.height) * down
            corner = np.array(data.ImagePositionPatient, float) + moved
            data.ImagePositionPatient = [f"{number:.9g}" for number in corner]
        return data

    def write(self, values: np.ndarray, metadata: Any) -> bytes:
        if metadata is None:
            raise ValueError("a DICOM file can be written only with the elements of another one")
        uid, data, (slope, intercept) = import_module("pydicom.uid"), deepcopy(metadata), _rescaling(metadata)
        kind = np.dtype(f"{'i' if data.PixelRepresentation else 'u'}{data.BitsAllocated // 8}")
        low = -(2 ** (data.BitsStored - 1)) if data.PixelRepresentation else 0
        stored = ((values.astype(np.float64) - intercept) / slope).round().clip(low, low + 2**data.BitsStored - 1)
        if values.shape[-1] > 1:
            data.PlanarConfiguration, data.PhotometricInterpretation = 0, "RGB"
        data.PixelData = stored.astype(kind.newbyteorder("<")).tobytes()
        data.Rows, data.Columns = values.shape[:2]
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        data.ImageType = ["DERIVED", "SECONDARY"]
        name = [str(data.SOPInstanceUID), hashlib.sha256(data.PixelData).hexdigest()]
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid(entropy_srcs=name)
        file = io.BytesIO()
        data.save_as(file, enforce_file_format=True)
        return file.getvalue()


class Nifti(ArrayFormat):
    """A NIfTI slice: its first two axes, and bands on the last one; results keep affine and header."""

    suffixes = (".nii", ".nii.gz")
    package, extra = "nibabel", "nifti"

    def recognises(self, content: bytes) -> bool:
        return _unzipped(content, 352)[344:347] == b"n+1"

    def read(self, content: bytes) -> StoredValues:
        image = self.module().Nifti1Image.from_bytes(_unzipped(content))
        values = np.asanyarray(image.dataobj)
        sides = [*values.shape[:2], *(side for side in values.shape[2:] if side > 1)]
        if len(sides) > 3:
            raise ValueError(
                f"it has {' x '.join(map(str, values.shape))} values, expected one slice, perhaps with bands"
            )
        return StoredValues(
            values.reshape(sides), (image.affine, image.header, values.ndim, content[:2] == b"\x1f\x8b")
        )

    def metadata_of_part(self, metadata: Any, box: Placement) -> Any:
        moved = np.diag([box.height, box.width, 1, 1])
        moved[:2, 3] = _centre(box.top, box.height), _centre(box.left, box.width)
        return (metadata[0] @ moved, *metadata[1:])

    def write(self, values: np.ndarray, metadata: Any) -> bytes:
        affine, header, axes, zipped = metadata or (np.eye(4), None, 2, False)
        shape = values.shape[:2] if values.shape[-1] == 1 else values.shape
        shape = (*shape[:2], *[1] * (axes - len(shape)), *shape[2:])
        image = self.module().Nifti1Image(values.reshape(shape), affine, header, dtype=values.dtype)
        return gzip.compress(image.to_bytes(), mtime=0) if zipped else image.to_bytes()


ARRAY_FORMATS: tuple[ArrayFormat, ...] = (Npy(), Npz(), GeoTiff(), Tiff(), Dicom(), Nifti())
"""The formats; the first that recognises a file reads it."""
ARRAY_SUFFIXES = tuple(suffix for format in ARRAY_FORMATS for suffix in format.suffixes)
ALL_SUFFIXES = tuple(dict.fromkeys((*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)))


def stem_of(file: PurePath) -> str:
    """A file's name without its suffix, such as .nii.gz."""
    suffixes = (suffix for suffix in ARRAY_SUFFIXES if file.name.lower().endswith(suffix))
    return file.name[: len(file.name) - len(max(suffixes, key=len, default=file.suffix))]


def suffixes_of(shape: ImageShape) -> tuple[str, ...]:
    return IMAGE_SUFFIXES if shape.format is None else ALL_SUFFIXES


def format_of(content: bytes) -> ArrayFormat | None:
    return next((format for format in ARRAY_FORMATS if format.recognises(content)), None)


def read_array(content: bytes, name: str, format: ArrayFormat) -> StoredValues:
    """The values (H, W, C) of a file; raises UnreadableImage if it is damaged, too large or not an image."""
    try:
        stored = format.read(content)
    except (ValueError, OSError) as error:
        raise UnreadableImage(f"cannot read image {name}: {error}") from None
    except Exception as error:  # the decoders of damaged files raise almost any
        raise UnreadableImage(f"cannot read image {name}: it cannot be decoded ({error!r})") from error
    values = stored.values[..., None] if stored.values.ndim == 2 else stored.values
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "biuf":
        shape = " x ".join(map(str, values.shape))
        raise UnreadableImage(f"cannot read image {name}: it has {shape} values of {values.dtype}, expected an image")
    if values.shape[0] * values.shape[1] > max_pixels():
        raise UnreadableImage(f"cannot read image {name}: it has more than {max_pixels():,} pixels; raise max_pixels=")
    return stored._replace(values=values.astype(values.dtype.newbyteorder("="), copy=False))


def _centre(start: float, size: float) -> float:
    """Distance from the centre of the file's first pixel to that of a part's, in pixels of the file."""
    return start + (size - 1) / 2


def _rescaling(data: Any) -> tuple[float, float]:
    return float(getattr(data, "RescaleSlope", 1) or 1), float(getattr(data, "RescaleIntercept", 0) or 0)


def _unzipped(content: bytes, length: int = -1) -> bytes:
    if content[:2] != b"\x1f\x8b":
        return content
    limit = 64 * max_pixels()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            found = file.read(limit + 1 if length < 0 else length)
    except (OSError, EOFError, zlib.error):
        return b""
    if len(found) > limit:
        raise ValueError(f"it expands to more than {limit:,} bytes")
    return found
