# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Write small DICOM series for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def write_slice(path: Path, pixels: np.ndarray, series: str, z: float | None, **tags: Any) -> None:
    """One slice of rows columns uint16 at height z (None: no position), any tag overridden."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CT_STORAGE
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.StudyInstanceUID = series, "1.2.3"
    data.SeriesNumber, data.Modality, data.PatientID = 4, "CT", "secret"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelSpacing = [0.5, 0.7]
    if z is not None:
        data.ImagePositionPatient, data.ImageOrientationPatient = [10, 20, z], [1, 0, 0, 0, 1, 0]
    data.PixelData = pixels.astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


def write_series(folder: Path, heights: list[float], seed: int = 0, series: str = "1.2.4", **tags: Any) -> np.ndarray:
    """Slices in the order of heights, named so that names and positions disagree; returns pixels S rows columns."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 2000, (len(heights), 6, 8))
    for k, z in enumerate(heights):
        write_slice(folder / f"{(k * 7 + 3) % 101:03d}_{series[-1]}.dcm", pixels[k], series, z, **tags)
    return pixels
