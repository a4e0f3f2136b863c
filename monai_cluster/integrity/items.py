# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One item of a list: its inspector is chosen by suffix, and by content where the suffix says nothing."""

from __future__ import annotations

import os
from typing import Literal

from .byte_stream import file_format, open_regular, refuse
from .candidates import DICOM_SUFFIXES, PICTURE_SUFFIXES, VOLUME_SUFFIXES
from .findings import Inspection
from .guarding import guarded
from .limits import Limits

__all__ = ["inspect_item"]

Path = str | os.PathLike[str]
Kind = Literal["volume", "image"] | None
HEAD_BYTES = 560


def inspect_item(path: Path, kind: Kind = None, limits: Limits | None = None) -> Inspection:
    """Inspect a file, or a folder that holds one DICOM series. Never raises for what is there.

    Args:
        path: of the item.
        kind: what the item is meant to be; None takes what it is.
        limits: how large and odd it may be.
    """
    limits, inspection = limits or Limits(), Inspection()
    with guarded(inspection):
        inspection = _inspect(path, kind, limits)
    return inspection


def _inspect(path: Path, kind: Kind, limits: Limits) -> Inspection:
    """Choose and run the inspector.

    Raises:
        InputRefusedError: NOT_AN_IMAGE and CONTAINER for an unknown suffix, and what ``open_regular`` raises.
    """
    suffix = _suffix(path)
    known = suffix in VOLUME_SUFFIXES + PICTURE_SUFFIXES + DICOM_SUFFIXES
    if b"\0" not in os.fsencode(path) and os.path.isdir(path) and not known:
        return _inspect_folder(path, kind, limits)
    with open_regular(path) as file:  # pipes, devices, folders and loops of links end here
        head = file.read(HEAD_BYTES)
    if suffix in (".nii", ".nii.gz"):
        from .nifti import inspect_nifti

        return inspect_nifti(path, kind, limits=limits)
    if suffix in (".mha", ".mhd"):
        from .itk_headers import inspect_metaimage

        return inspect_metaimage(path, kind, limits=limits)
    if suffix in (".nrrd", ".nhdr"):
        from .itk_headers import inspect_nrrd

        return inspect_nrrd(path, kind, limits=limits)
    if suffix in PICTURE_SUFFIXES:
        from .pictures import inspect_picture

        return inspect_picture(path, kind, limits=limits)
    if suffix in DICOM_SUFFIXES or _is_dicom(head, suffix):
        from .dicom_file import inspect_dicom_image

        return inspect_dicom_image(path, kind, limits=limits)
    raise _unknown(head)


def _inspect_folder(path: Path, kind: Kind, limits: Limits) -> Inspection:
    from .dicom_series import inspect_series

    inspection = inspect_series(path, limits=limits)
    if kind == "image" and inspection.verdict != "reject":
        rule, fix = "an image must be one file", "list the folder under volumes"
        inspection.reject("NDIM", rule, "a folder that holds a series (a volume)", fix)
    return inspection


def _suffix(path: Path) -> str:
    name = os.path.basename(os.fsdecode(path)).lower()
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]


def _is_dicom(head: bytes, suffix: str) -> bool:
    """With the preamble; without it, only where the suffix says nothing and the file begins with group 0008 or 0002."""
    if file_format(head) == "dicom":
        return True
    silent = suffix in ("", ".") or suffix[1:].isdigit()
    return silent and head[:2] in (b"\x08\0", b"\x02\0") and head[3:4] == b"\0"


def _unknown(head: bytes) -> Exception:
    known = ", ".join((*VOLUME_SUFFIXES, *PICTURE_SUFFIXES, *DICOM_SUFFIXES))
    rule = f"an item must end in one of {known}, or be DICOM"
    name = file_format(head)
    if name in ("nifti", "nrrd", "metaimage", "png", "jpeg", "tiff", "bmp"):
        return refuse("CONTAINER", rule, f"{name} under an unknown suffix", "give the file the suffix of its format")
    found = f"an unknown suffix and the content of {name}" if name else "an unknown suffix and unknown content"
    return refuse("NOT_AN_IMAGE", rule, f"{found} (not an image)", "take it off the list, or convert it")
