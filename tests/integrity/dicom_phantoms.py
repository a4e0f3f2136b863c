# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""DICOM files made up for the tests: a smooth body in slices, with whatever header a test asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from monai_cluster.integrity.findings import Inspection

ROOT = "1.2.826.0.1.3680043.10.999"


def body(slices: int = 8, rows: int = 24, columns: int = 20) -> np.ndarray:
    """Stored values int16 ``slices rows columns``."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in (slices, rows, columns)], indexing="ij")
    values = 1000 * (x**2 + y**2 + 0.3 * z < 0.6) + 120 * np.sin(4 * x + z) + 90 * y * x + 300
    return values.astype("<i2")


def slice_dataset(index: int, slices: int = 8, z: float | None = None, series: str = "1", **header: Any) -> Dataset:
    """One axial CT slice; ``header`` replaces entries, None takes them out."""
    pixels = body(slices)[min(index, slices - 1)]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{ROOT}.{series}.{index + 1}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = ROOT, f"{ROOT}.{series}"
    dataset.FrameOfReferenceUID, dataset.Modality = f"{ROOT}.9", "CT"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "ANON", "P000", ""
    dataset.ImagePositionPatient = [-20.0, -30.0, 2.5 * index if z is None else z]
    dataset.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    dataset.PixelSpacing = [0.7, 0.9]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = pixels.tobytes()
    for keyword, value in header.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write a file with preamble."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def save_series(datasets: Sequence[Dataset], folder: Path) -> Path:
    """Write slices under names that are not in their order."""
    for count, dataset in enumerate(datasets):
        save(dataset, folder / f"{(count * 7) % 97:02d}.dcm")
    return folder


def enhanced(slices: int = 8, **header: Any) -> Dataset:
    """An enhanced multi-frame CT volume."""
    dataset = slice_dataset(0, slices, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=slices, **header)
    dataset.PixelData = body(slices).tobytes()
    measures, turned, scaling, shared = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = dataset.PixelSpacing
    turned.ImageOrientationPatient = dataset.ImageOrientationPatient
    scaling.RescaleSlope, scaling.RescaleIntercept = 1, -1024
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turned]
    shared.PixelValueTransformationSequence = [scaling]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index in range(slices):
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [-20.0, -30.0, 2.5 * index]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(dataset, keyword)
    del dataset.RescaleIntercept
    return dataset


def codes(inspection: Inspection, severity: str | None = None) -> set[str]:
    """Codes of the findings."""
    return {one.code for one in inspection.findings if severity in (None, one.severity)}
