"""Files of values: what is written is read again with its metadata, and bad files are refused in one line."""

from __future__ import annotations

import gzip
import importlib
import io
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.array_files import dicom, geotiff, nifti, npy, npz, tiff

from sdedit_pl.data import array_formats
from sdedit_pl.data.array_formats import ARRAY_FORMATS, Dicom, GeoTiff, Nifti, Npy, Npz, Tiff, format_of, read_array
from sdedit_pl.data.folder_source import FolderSource
from sdedit_pl.data.image_decoding import decode_image, decode_whole
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat, ImageShape, PixelFormat, shown_bands
from sdedit_pl.data.image_labels import _names
from sdedit_pl.data.value_decoding import png_file, premultiplied, read_values, result_file, unmultiplied
from sdedit_pl.data.value_range import measured_values, with_range
from sdedit_pl.edit_runs.result_shards import member
from sdedit_pl.evaluation.run_detection import names_of, read_truth
from sdedit_pl.guides.guide_files import read_guide
from sdedit_pl.guides.mask_files import find_areas
from sdedit_pl.picture_grid import to_picture

GREY = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
BANDS = np.random.default_rng(0).normal(300, 5, (3, 4, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "make", "values"),
    [
        (Npy, npy, GREY),
        (Npy, npy, np.asfortranarray(BANDS)),
        (Npy, npy, GREY.astype(">u2")),
        (Npz, lambda values: npz(image=values, other=values), GREY),
        (Tiff, tiff, GREY),
        (Tiff, lambda values: tiff(values, planarconfig="contig"), BANDS),
        (Tiff, lambda values: tiff(values.transpose(2, 0, 1), planarconfig="separate"), BANDS),
        (GeoTiff, geotiff, BANDS),
        (Dicom, dicom, GREY),
        (Nifti, nifti, GREY),
        (Nifti, nifti, BANDS),
    ],
)
def test_a_format_reads_what_it_writes(kind: type, make: Any, values: np.ndarray) -> None:
    content = make(values)
    found = format_of(content)
    assert type(found) is kind and found is not None
    stored = read_array(content, "a", found)
    assert stored.values.dtype.name == values.dtype.name and np.array_equal(stored.values.squeeze(), values)
    changed = stored.values + stored.values.dtype.type(1)
    again = read_array(found.write(changed, stored.metadata), "a", found)
    assert again.values.dtype == changed.dtype and np.array_equal(again.values, changed)
    assert found.write(changed, stored.metadata) == found.write(changed, stored.metadata)


def test_results_keep_the_place_of_an_image() -> None:
    nodata = np.where(np.arange(4) == 1, -9999, BANDS).astype(np.float32)
    stored = GeoTiff().read(geotiff(nodata, nodata=-9999))
    assert np.isnan(stored.values[..., 1]).all()
    again = GeoTiff().read(GeoTiff().write(stored.values * 2, stored.metadata))
    assert np.array_equal(again.values, stored.values * 2, equal_nan=True)
    for key in ("crs", "transform", "nodata"):
        assert again.metadata["profile"][key] == stored.metadata["profile"][key]
    assert again.metadata["bands"][3] == "infrared"
    stored = Dicom().read(dicom(GREY, slope=0.5, intercept=-1024))
    assert stored.values.dtype == np.float32 and stored.values[0, 0] == -1024 and stored.values[0, 1] == 1476
    again = Dicom().read(Dicom().write(stored.values[..., None] + 1, stored.metadata))
    assert np.array_equal(again.values, stored.values + 1)
    assert again.metadata.PixelSpacing == [0.5, 0.7] and again.metadata.PatientID == "phantom"
    assert again.metadata.SOPInstanceUID != "1.2.3" and again.metadata.ImageType[0] == "DERIVED"
    stored = Nifti().read(nifti(GREY))
    assert np.array_equal(Nifti().read(Nifti().write(GREY[..., None], stored.metadata)).metadata[0], stored.metadata[0])


WINDOW = {"WindowCenter": [3000, 0], "WindowWidth": [2001, 10]}


@pytest.mark.parametrize(
    ("elements", "window", "shown"),
    [
        (WINDOW, (1999.5, 3999.5), [0, 64, 179, 255]),
        ({**WINDOW, "PhotometricInterpretation": "MONOCHROME1"}, (3999.5, 1999.5), [255, 191, 76, 0]),
        ({**WINDOW, "WindowWidth": 1}, None, [64, 159, 217, 255]),
        ({}, None, [64, 159, 217, 255]),
    ],
)
def test_pictures_show_the_window_of_a_dicom_file(
    elements: dict[str, Any], window: tuple[float, float] | None, shown: list[int], tmp_path: Path
) -> None:
    import pydicom

    file, values = tmp_path / "a.dcm", np.array([[1000, 2500, 3400, 5000]])
    file.write_bytes(dicom((values + 1024).astype(np.uint16), 1, -1024, **elements))
    pixels = PixelFormat("float32", range=(0.0, 5000.0), window=(0.0, 4000.0))
    guide = read_guide(file, ImageShape((1, 4), 1, format=pixels))
    assert np.array(to_picture(guide.image[0], guide.format)).tolist() == [shown]
    result = result_file(guide.image[0], guide.shape, ".dcm", file)
    assert np.abs(read_values(result, "a").values.squeeze() - values).max() < 1
    assert pydicom.dcmread(io.BytesIO(result)).get("WindowCenter") == elements.get("WindowCenter")
    measured = with_range(FolderSource(str(tmp_path), (1, 4), 1, val_fraction=0.0, format=PixelFormat("float32")))
    assert measured is not None and measured.window == window


@pytest.mark.parametrize("centre", [b"300x", b"inf "])
def test_a_window_that_is_no_number_is_ignored(centre: bytes) -> None:
    assert Dicom().window(dicom(GREY, WindowCenter=3000, WindowWidth=2001).replace(b"3000", centre, 1)) is None


def test_a_smaller_result_stays_in_its_place(tmp_path: Path) -> None:
    """Of a guide of 12 x 6 pixels, a result of 4 x 3 shows the rows 2 to 10 with pixels twice as large."""
    import rasterio

    values = np.zeros((12, 6, 4), np.float32)
    files = {".tif": geotiff(values), ".nii": nifti(values[..., 0]), ".dcm": dicom(values[..., 0].astype(np.uint16))}
    shape, read = ImageShape((4, 3), 1, format=PixelFormat("float32", range=(0.0, 1.0))), {}
    for suffix, content in files.items():
        (tmp_path / f"a{suffix}").write_bytes(content)
        bands = replace(shape, channels=4) if suffix == ".tif" else shape
        result = result_file(torch.zeros(bands.tensor_shape), bands, suffix, tmp_path / f"a{suffix}")
        read[suffix] = read_values(result, "a")
    transform = rasterio.transform.from_origin(500_000, 5_799_980, 20, 20)
    assert read[".tif"].metadata["profile"]["transform"] == transform
    bands, whole = replace(shape, channels=4), rasterio.transform.from_origin(500_000, 5_800_000, 20, 30)
    for fit in ("resize", "pad"):
        result = result_file(torch.zeros(4, 4, 3), bands, ".tif", tmp_path / "a.tif", fit=fit)
        assert read_values(result, "a").metadata["profile"]["transform"] == whole
    affine = np.diag([4.0, 6.0, 4.0, 1.0])
    affine[:2, 3] = 5, 1.5
    assert np.array_equal(read[".nii"].metadata[0], affine)
    assert read[".dcm"].metadata.PixelSpacing == [1.0, 1.4] and read[".dcm"].values.dtype == np.uint16
    assert read[".dcm"].metadata.ImagePositionPatient == [0.35, 1.25, 7]
    (tmp_path / "b.tif").write_bytes(tiff(values[..., 0], resolution=(30, 20)))
    stored = read_values(result_file(torch.zeros(1, 4, 3), shape, ".tif", tmp_path / "b.tif"), "b")
    assert (stored.metadata["XResolution"], stored.metadata["YResolution"]) == ((15, 1), (10, 1))


def test_results_have_the_type_of_their_guide(tmp_path: Path) -> None:
    """Rounded, also beside kept pixels, and within the bits that a DICOM file states."""
    shape = ImageShape((3, 4), 1, format=PixelFormat("float32", range=(0.0, 100_000.0)))
    guide = GREY.astype(np.int32)
    (tmp_path / "a.npy").write_bytes(npy(guide))
    image = (torch.arange(12).reshape(1, 3, 4) * 5000 + 0.7) / 50_000 - 1
    for kept in (None, torch.arange(12).reshape(3, 4) < 6):
        values = read_values(result_file(image, shape, ".npy", tmp_path / "a.npy", kept), "a").values[..., 0]
        changed = np.ones((3, 4), bool) if kept is None else ~kept.numpy()
        assert values.dtype == np.int32 and np.array_equal(values, guide + changed)
    small = read_values(result_file(image, shape, ".npy", tmp_path / "a.npy", own_type=True), "a").values[..., 0]
    assert small.dtype == np.float32 and np.allclose(small, guide + 0.7, atol=0.02)
    eight = ImageShape((3, 4), 1)  # values of 8 bits are not mixed with those of 16
    (tmp_path / "b.npy").write_bytes(npy(np.full((3, 4), 40_000, np.uint16)))
    kept = torch.arange(12).reshape(3, 4) < 6
    assert (
        read_values(result_file(torch.ones(1, 3, 4), eight, ".npy", tmp_path / "b.npy", kept), "b").values == 255
    ).all()
    stored = Dicom().read(dicom(GREY, bits=12))
    assert Dicom().read(Dicom().write(GREY[..., None], stored.metadata)).values.max() == 4095


def test_a_suffix_of_two_parts_is_no_part_of_a_name(tmp_path: Path) -> None:
    guide = tmp_path / "scan.2.nii.gz"
    (tmp_path / "scan.2.png").touch()
    assert find_areas("mask", str(tmp_path), [guide]) == [tmp_path / "scan.2.png"]
    assert "pets/scan.2" in _names("pets/scan.2.nii.gz")
    assert member("scan.2_seed0.nii.gz") == ("scan-2_seed0", ".nii.gz")
    (tmp_path / "scan.2_mask.nii.gz").write_bytes(gzip.compress(nifti(255 * np.eye(4, 1, dtype=np.uint8))))
    assert read_truth(tmp_path, names_of([str(guide)], str(tmp_path)), 4, "resize")[0, 0].all()


def test_npy_headers_are_parsed_in_many_threads() -> None:
    """NumPy's own parser fails there with "AST constructor recursion depth mismatch" on CPython 3.11."""
    content, found = npz(image=GREY), []

    def read() -> None:
        found.extend(Npz().read(content).values.sum() for _ in range(200))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [GREY.sum()] * 1600


def compressed_dicom() -> bytes:
    import pydicom

    data = pydicom.dcmread(io.BytesIO(dicom(GREY)))
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", bytes(100_000))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: npy(np.array([{}], dtype=object)), "objects or records, expected an array of numbers"),
        (lambda: npy(GREY)[:-2], "cannot read image a"),
        (lambda: npy(np.zeros((2, 2, 2, 2))), "2 x 2 x 2 x 2 values of float64, expected an image"),
        (lambda: npz(b=GREY, c=GREY), "the arrays b.npy, c.npy, expected one, or one called image"),
        (
            lambda: tiff(np.zeros((2, 3, 4, 3), np.uint16), photometric="rgb"),
            "expected one image of height Y, width X and bands",
        ),
        (lambda: tiff(GREY)[:60], "cannot read image a"),
        (lambda: nifti(np.zeros((3, 4, 5, 6), np.float32)), "expected one slice"),
        (compressed_dicom, "no installed plug-in decodes its transfer syntax, JPEG-LS Lossless"),
    ],
)
def test_files_that_hold_no_image_are_refused(content: Any, message: str) -> None:
    with pytest.raises(UnreadableImage, match=message) as refusal:
        decode_image(content(), "a", ImageFormat(4, 1, format=PixelFormat("uint16")))
    assert "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore")  # the decoders' own, on damaged files
@pytest.mark.parametrize(
    "whole",
    [
        npy(GREY),
        Npz().write(np.tile(GREY, (9, 9))[..., None], None),
        tiff(np.tile(GREY, (9, 9)), compression="zlib"),
        geotiff(BANDS),
        dicom(GREY),
        nifti(GREY),
        gzip.compress(nifti(np.tile(GREY, (9, 9)))),
    ],
    ids=["npy", "npz", "tiff", "geotiff", "dicom", "nifti", "nifti.gz"],
)
def test_damage_anywhere_makes_a_file_unreadable_or_changes_values(whole: bytes) -> None:
    generator = np.random.default_rng(0)
    unreadable = 0
    for attempt in range(120):
        damaged = np.frombuffer(whole, dtype=np.uint8).copy()
        damaged[generator.integers(0, min(len(whole), 900), 3)] = generator.integers(0, 256, 3)
        content = damaged[: len(whole) if attempt % 2 else attempt * len(whole) // 120].tobytes()
        try:
            found = format_of(content)
            if found is None:
                raise UnreadableImage("it is not of any format")
            read_array(content, "a", found)
            found.window(content)
        except UnreadableImage:
            unreadable += 1
    assert unreadable > 20


def test_a_zip_bomb_is_refused_before_it_expands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDEDIT_MAX_PIXELS", "100")
    with pytest.raises(ValueError, match="declares 100,000 bytes"):
        Npz().read(zip_bomb())


@pytest.mark.parametrize(("make", "extra"), [(geotiff, "geo"), (dicom, "dicom"), (nifti, "nifti")])
def test_a_missing_package_is_named_with_its_extra(make: Any, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = make(BANDS if make is geotiff else GREY)

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(array_formats, "import_module", missing)
    with pytest.raises(UnreadableImage, match=rf"its format needs \w+; pip install 'sdedit-pl\[{extra}\]'"):
        read_values(content, "a")


@pytest.mark.parametrize(
    ("values", "keys", "message"),
    [
        (BANDS, {"channels": 3, "bands": ("r", "g", "b")}, r"a has 4 bands, expected 3 \(r, g, b\)"),
        (GREY, {"dtype": "uint8"}, r"a has uint16 values, expected uint8 .data.format.; convert it"),
        (GREY.astype(np.int32) - 1, {"dtype": "uint16"}, "a has int32 values, expected uint16"),
        (np.where(GREY > 0, np.nan, 1.0), {}, "a has 11 pixels with NaN, infinite or missing values; .*invalid=mask"),
    ],
)
def test_values_that_do_not_fit_the_format_are_refused(values: np.ndarray, keys: dict[str, Any], message: str) -> None:
    channels = keys.pop("channels", 1)
    with pytest.raises(UnreadableImage, match=message):
        decode_image(
            npy(values), "a", ImageFormat((3, 4), channels, format=PixelFormat(**{"dtype": "float32", **keys}))
        )


def test_invalid_values_are_masked_and_values_round_trip() -> None:
    values = np.where(np.arange(12).reshape(3, 4) == 5, np.inf, 273 + np.arange(12).reshape(3, 4)).astype(np.float32)
    pixels = PixelFormat("float32", range=(270.0, 290.0), invalid="mask")
    image_format = ImageFormat((3, 4), 1, format=pixels)
    decoded = decode_image(npy(values), "a", image_format)[None]
    valid, images = image_format.valid(decoded), image_format.images(decoded)
    assert valid is not None and valid[0, 0].sum() == 11 and not valid[0, 0, 1, 1]
    assert images[0, 0, 1, 1] == 0 and images.abs().max() <= 1
    assert torch.allclose(image_format.values(images)[valid], decoded[valid], rtol=1e-6)
    small = decode_image(npy(np.kron(values, np.ones((4, 4), np.float32))), "a", image_format)
    assert not small.isfinite()[0, 1, 1] and small.isfinite()[0, 0, 3]
    assert small[small.isfinite()].min() > 272 and small[small.isfinite()].max() < 285
    whole = ImageFormat((3, 4), 1, format=PixelFormat("uint16"))
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16).reshape(1, 1, 256, 256)
    full = ImageShape(256, 1, format=PixelFormat("uint16", range=(0.0, 65535.0)))
    assert torch.equal(full.values(full.images(every)), every)
    assert decode_whole(npy(GREY), "a", whole).dtype == torch.uint16
    padded = replace(whole, fit="pad", marked=True)
    marks = padded.valid(decode_image(npy(GREY[:, :2]), "a", padded)[None])
    assert marks is not None and marks[0, 0].tolist() == [[False, True, True, False]] * 3


def test_resampled_bands_follow_the_8_bit_path() -> None:
    ramp = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    expected = decode_image(npy(ramp), "a", ImageFormat((12, 8), fit="pad"))
    found = decode_image(npy(ramp), "a", ImageFormat((12, 8), fit="pad", format=PixelFormat("uint8")))
    assert (found.int() - expected.int()).abs().max() <= 1


def test_alpha_premultiplies_colours_and_png_files_hold_16_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 65536, (5, 6, 4), dtype=np.uint16)
    stored = read_values(png_file(values), "a").values
    assert np.array_equal(stored, values)
    with Image.open(io.BytesIO(png_file(values[..., :1]))) as grey:
        assert np.array_equal(np.asarray(grey), values[..., 0])
    colours = premultiplied(values)
    assert (colours[..., :3] <= colours[..., 3:]).all()
    assert (np.abs(unmultiplied(colours).astype(int) - values) <= 65535 / values[..., 3:]).all()
    (tmp_path / "a.png").write_bytes(png_file(values))
    shape = ImageShape((5, 6), 4, format=PixelFormat("uint16", alpha=True))
    image = shape.images(decode_image(tmp_path / "a.png", "a", ImageFormat.of(shape))[None])[0]
    result = read_values(result_file(image, shape, ".png", tmp_path / "a.png", torch.ones(5, 6) > 0), "a").values
    assert np.array_equal(result, values)
    clear = -torch.ones(4, 1, 1)
    assert (shown_bands(clear, shape.format) == 1).all()  # white


def test_arrays_are_pictures_and_animations_give_their_first_frame(caplog: pytest.LogCaptureFixture) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    assert torch.equal(decode_image(npy(rgb), "a", ImageFormat(4)), torch.from_numpy(rgb).permute(2, 0, 1))
    assert decode_image(npy(np.eye(4)), "a", ImageFormat(4, 1)).max() == 255
    with pytest.raises(UnreadableImage, match=r"4 bands of float32 and is not an 8-bit picture; .*data\.format\.dtype"):
        decode_image(npy(BANDS), "a", ImageFormat(4))
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]
    for kind in ("GIF", "AVIF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        assert abs(int(decode_image(file.getvalue(), f"a.{kind}", ImageFormat(4, 1))[0, 0, 0]) - 10) <= 2
        assert f"a.{kind} holds several frames; the first one is used" in caplog.text


def test_a_new_format_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pgm(array_formats.ArrayFormat):
        """Binary PGM of 16 bits."""

        suffixes = (".pgm",)

        def recognises(self, content: bytes) -> bool:
            return content.startswith(b"P5") and b"65535" in content[:20]

        def read(self, content: bytes) -> array_formats.StoredValues:
            _, width, height, _ = content.split(maxsplit=4)[:4]
            values = np.frombuffer(content[-2 * int(width) * int(height) :], ">u2").astype(np.uint16)
            return array_formats.StoredValues(values.reshape(int(height), int(width)))

        def write(self, values: np.ndarray, metadata: Any) -> bytes:
            header = f"P5 {values.shape[1]} {values.shape[0]} 65535\n".encode()
            return header + values[..., 0].astype(">u2").tobytes()

    monkeypatch.setattr(array_formats, "ARRAY_FORMATS", (*ARRAY_FORMATS, Pgm()))
    content = Pgm().write(GREY[..., None], None)
    assert np.array_equal(read_values(content, "a").values[..., 0], GREY)
    assert importlib.import_module("sdedit_pl.data.array_formats").format_of(content).suffixes == (".pgm",)


def test_the_measured_range_is_that_of_all_columns(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(1000, dtype=np.uint16), (1000, 1))
    np.save(tmp_path / "a.npy", ramp)
    source = FolderSource(str(tmp_path), 1000, 1, val_fraction=0.0, format=PixelFormat("uint16"))
    assert len(np.unique(measured_values(source))) > 900


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "RGB", "L", "1", "I;16"])
def test_results_of_photographs_in_other_colours_or_of_several_pages_are_rgb(mode: str, tmp_path: Path) -> None:
    page = Image.new(mode, (4, 3), 90)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page] * (mode == "RGB"))
    shape, kept = ImageShape((3, 4), 3), torch.ones(3, 4) > 0
    result = Image.open(io.BytesIO(result_file(torch.ones(3, 3, 4), shape, ".tif", tmp_path / "a.tif", kept)))
    assert result.mode == "RGB" and np.asarray(result).min() == 255
