# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What is to be inspected: candidates, and how files that were found in a folder become such."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .findings import Finding
from .label_pairing import is_label_folder, label_base
from .walk import FileEntry, Walk, file_suffix

__all__ = ["DICOM_SUFFIXES", "PICTURE_SUFFIXES", "VOLUME_SUFFIXES", "Candidate", "Sorted", "sort_files"]

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOM_SUFFIXES = (".dcm", ".ima")
DETACHED = {".mhd": (".raw", ".zraw"), ".nhdr": (".raw", ".raw.gz", ".gz", ".bin", ".img")}
USUAL = re.compile(  # suffixes that a report may name; anything else after a dot could be part of a name
    r"\.(txt|json|csv|tsv|md|xml|pdf|zip|gz|bval|bvec|npz|npy|raw|zraw|img|hdr|bin|html|log|xlsx|mat|py|yaml|db|dat)"
)
LINK_OUT = Finding(
    "PATH",
    "warn",
    "files should lie inside the source",
    "a symbolic link that leads outside the source",
    "check that it is meant; whoever can change the file behind it changes the data",
)


@dataclass(slots=True)
class Candidate:
    """One image or volume, with all files that belong to it.

    Attributes:
        name: stable and unique in one source: relative path of the file or folder. Keep it out of reports.
        images: absolute paths: one file, several that are channels, or the files of a series.
        entries: every file that takes part, labels included; for accounting and to notice changes.
        kind: ``image`` or ``volume`` where something says so.
        series: whether the files are the slices of a DICOM series.
        linked: whether a series shares its folder, so that only a folder of links can stand for it in a list.
        listed: what a datalist names as ``image``, absolute: paths, or the folder of a series.
        label: absolute path of a label map.
        columns: further columns of a datalist's row.
        paths: columns that hold paths of further files, absolute; they are kept and not inspected.
        split: where a list or a folder's layout says one.
        subject: patient as the source names it; keep it out of reports.
        subject_source: ``column``, ``dicom``, ``bids`` or ``pattern``.
        findings: known before the files are read.
    """

    name: str = field(repr=False)
    images: tuple[str, ...] = field(repr=False)
    entries: tuple[FileEntry, ...] = field(repr=False)
    kind: str | None = None
    series: bool = False
    linked: bool = False
    listed: str | tuple[str, ...] = field(default=(), repr=False)
    label: str | None = field(default=None, repr=False)
    columns: dict[str, Any] = field(default_factory=dict, repr=False)
    paths: dict[str, str] = field(default_factory=dict, repr=False)
    split: str | None = None
    subject: str | None = field(default=None, repr=False)
    subject_source: str | None = None
    findings: list[Finding] = field(default_factory=list)


@dataclass
class Sorted:
    """Files of a folder by what they may be.

    Attributes:
        images: volumes and pictures, one candidate per file.
        labels: files that are label maps by name or folder.
        dicom: by folder, files that may be DICOM; whether they are says their content.
    """

    images: list[Candidate] = field(default_factory=list, repr=False)
    labels: list[FileEntry] = field(default_factory=list, repr=False)
    dicom: dict[str, list[FileEntry]] = field(default_factory=dict, repr=False)


def sort_files(files: Iterable[FileEntry], root: str, walk: Walk, is_derivative: Callable[[str], bool]) -> Sorted:
    """Sort walked files by name alone; nothing is opened.

    Args:
        files: of :func:`~monai_cluster.integrity.walk.walk_files`.
        root: real path of the folder; names are relative to it.
        walk: notes what is skipped, and why.
        is_derivative: whether a relative path is a processed copy that a BIDS tree keeps beside its raw data.
    """
    found, detached = Sorted(), dict[str, FileEntry]()
    for entry in files:
        name = os.path.relpath(entry.path, root)
        suffix = file_suffix(entry.path)
        known = suffix in VOLUME_SUFFIXES + PICTURE_SUFFIXES
        if known and (is_label_folder(name) or label_base(name) is not None):
            found.labels.append(entry)
        elif is_derivative(name):
            walk.skip(entry.path, "derivative of a BIDS tree")
        elif known:
            found.images.append(_candidate(entry, name, suffix))
        elif _may_be_dicom(suffix) and (entry.state == "file" or suffix in DICOM_SUFFIXES):
            found.dicom.setdefault(os.path.dirname(entry.path), []).append(entry)
        elif any(suffix.endswith(one) for ones in DETACHED.values() for one in ones):
            detached[entry.path] = entry
        else:
            _skip_other(entry, suffix, walk)
    _attach(found.images, detached)
    for entry in detached.values():
        _skip_other(entry, file_suffix(entry.path), walk)
    _add_empty_folders(found, root, walk)
    return found


def _candidate(entry: FileEntry, name: str, suffix: str) -> Candidate:
    kind = "image" if suffix in PICTURE_SUFFIXES else None
    findings = [LINK_OUT] if entry.outside else []
    return Candidate(name, (entry.path,), (entry,), kind, listed=entry.path, findings=findings)


def _may_be_dicom(suffix: str) -> bool:
    """By its suffix, or without one; UIDs as names end in numbers."""
    return suffix in DICOM_SUFFIXES or suffix in ("", ".") or suffix[1:].isdigit()


def _attach(images: list[Candidate], detached: dict[str, FileEntry]) -> None:
    """Give headers with detached values (MHD, NHDR) the file of the same stem."""
    for one in images:
        stem, suffix = os.path.splitext(one.images[0])
        for other in DETACHED.get(suffix.lower(), ()):
            if stem + other in detached:
                one.entries += (detached.pop(stem + other),)
                break


def _skip_other(entry: FileEntry, suffix: str, walk: Walk) -> None:
    if entry.state != "file":
        walk.skip(entry.path, "broken link" if entry.state == "link" else "special file")
    else:
        walk.skip(entry.path, f"no image ({suffix})" if USUAL.fullmatch(suffix) else "no image (other suffix)")


def _add_empty_folders(found: Sorted, root: str, walk: Walk) -> None:
    """An empty folder called like an image is what remains of a failed copy."""
    for folder in walk.empty_folders:
        suffix = file_suffix(folder)
        if suffix in VOLUME_SUFFIXES + PICTURE_SUFFIXES and folder != root:
            entry = FileEntry(folder, 0, 0, 0, "special")
            found.images.append(_candidate(entry, os.path.relpath(folder, root), suffix))
