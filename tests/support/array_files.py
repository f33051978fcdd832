"""Files of array values, each written by the package of its format."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tifffile


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **{"photometric": "minisblack", **options})
    return file.getvalue()


def geotiff(values: np.ndarray, **options: Any) -> bytes:
    import rasterio

    transform = rasterio.transform.from_origin(500_000, 5_800_000, 10, 10)
    shape = {"height": values.shape[0], "width": values.shape[1], "count": values.shape[2]}
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", dtype=values.dtype, crs="EPSG:32632", transform=transform, **shape, **options
        ) as file:
            file.write(values.transpose(2, 0, 1))
            file.set_band_description(4, "infrared")
        return bytes(memory.read())


def dicom(values: np.ndarray, slope: float = 1, intercept: float = 0, bits: int = 16, **elements: Any) -> bytes:
    import pydicom

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = pydicom.dataset.Dataset()
    data.file_meta, data.SOPClassUID, data.SOPInstanceUID = meta, meta.MediaStorageSOPClassUID, "1.2.3"
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits, bits - 1
    data.PixelSpacing, data.PatientID = [0.5, 0.7], "phantom"
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 7], [1, 0, 0, 0, 1, 0]
    data.RescaleSlope, data.RescaleIntercept, data.PixelData = slope, intercept, values.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def nifti(values: np.ndarray) -> bytes:
    import nibabel

    return nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0])).to_bytes()
