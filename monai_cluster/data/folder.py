# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Search a folder for images, volumes and DICOM series."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai_cluster.keys import ClusterKeys

from .dicom import dicom_header, is_dicom, is_image_storage
from .readers import READABLE_SUFFIXES, file_suffix

__all__ = ["scan_folder"]

LABEL_FOLDERS = ("label", "labels", "labelstr", "labelsts", "mask", "masks", "segmentation", "segmentations")


def scan_folder(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """List the samples below a folder, sorted by path.

    A folder of DICOM slices is one volume; DICOM files without a position in the patient (X-ray, ultrasound) are
    images of their own. Hidden files, label folders, DICOM that is not an image, and other suffixes are ignored.

    Returns:
        rows with absolute ``image`` (and ``kind`` where the search knows it), and the ignored files' relative names.
    """
    rows: list[dict[str, Any]] = []
    ignored: list[str] = []
    folder = folder.resolve()
    for root, directories, files in os.walk(folder):
        here = Path(root)
        for name in [name for name in directories if name[0] == "." or name.lower() in LABEL_FOLDERS]:
            directories.remove(name)
            inside = [Path(sub) / file for sub, _, found in os.walk(here / name) for file in found]
            ignored += [path.relative_to(folder).as_posix() for path in sorted(inside)]
        directories.sort()
        dicom: list[Path] = []
        for name in sorted(files):
            path = here / name
            if name[0] != "." and is_dicom(path):
                dicom.append(path)
            elif name[0] != "." and file_suffix(path) in READABLE_SUFFIXES:
                rows.append({ClusterKeys.IMAGE: str(path)})
            else:
                ignored.append(path.relative_to(folder).as_posix())
        found, left = _dicom_rows(here, dicom)
        rows += found
        ignored += [path.relative_to(folder).as_posix() for path in left]
    rows.sort(key=lambda row: str(row[ClusterKeys.IMAGE]))
    return rows, ignored


def _dicom_rows(folder: Path, files: list[Path]) -> tuple[list[dict[str, Any]], list[Path]]:
    """One row for a series, or one per 2D image; and the files that are no images."""
    rows: list[dict[str, Any]] = []
    ignored: list[Path] = []
    series = False
    for path in files:
        header = dicom_header(path)
        if header is None or not is_image_storage(header):
            ignored.append(path)
        elif header.get("ImagePositionPatient"):
            series = True
        else:
            rows.append({ClusterKeys.IMAGE: str(path), ClusterKeys.KIND: "image"})
    if series:
        rows.append({ClusterKeys.IMAGE: str(folder), ClusterKeys.KIND: "volume"})
    return rows, ignored
