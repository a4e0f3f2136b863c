# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From a source, which may be a folder, a BIDS tree or a list, to the candidates of a check."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from monai_cluster.integrity import Finding
from monai_cluster.integrity.candidates import Candidate, sort_files
from monai_cluster.integrity.label_pairing import channel_of, is_bids_derivative, pair_labels
from monai_cluster.integrity.listed_rows import read_listing
from monai_cluster.integrity.walk import FileEntry, Walk, walk_files

__all__ = ["Source", "find_source"]

LIST_SUFFIXES = (".json", ".csv")


@dataclass
class Source:
    """What was found.

    Attributes:
        candidates: images and volumes, sorted by name.
        dicom: by folder, files that may be DICOM and are not grouped yet.
        root: folder that names are relative to.
        is_list: whether the source is a list.
        has_splits: whether it says which items are for training.
        skipped: files passed over, by reason.
        skipped_paths: their paths; for ``items.csv`` only.
        subsets: lists that repeat rows of a split, as names of candidates.
        entries: of a list beside its rows.
        findings: about the source as a whole.
    """

    candidates: list[Candidate] = field(default_factory=list, repr=False)
    dicom: dict[str, list[FileEntry]] = field(default_factory=dict, repr=False)
    root: str = ""
    is_list: bool = False
    has_splits: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_paths: list[tuple[str, str]] = field(default_factory=list, repr=False)
    subsets: dict[str, list[str]] = field(default_factory=dict, repr=False)
    entries: dict[str, Any] = field(default_factory=dict, repr=False)
    findings: list[Finding] = field(default_factory=list)

    def skip(self, path: str, reason: str) -> None:
        """Note a file that is passed over."""
        self.skipped[reason] += 1
        self.skipped_paths.append((path, reason))


def find_source(source: str, out: str) -> Source:
    """Find the candidates of a folder or list; DICOM files of folders are left for grouping.

    Args:
        source: folder, ``.json`` or ``.csv``.
        out: folder of the check, which is no part of the source.

    Raises:
        FileNotFoundError: if there is no such source.
        ValueError: for a file that is neither JSON nor CSV, and for ``out`` being the source.
    """
    if not os.path.exists(source):
        raise FileNotFoundError("the source must be an existing folder, JSON or CSV file; check the path")
    if os.path.isdir(source):
        if os.path.realpath(source) == os.path.realpath(out):
            raise ValueError("out must be another folder than the source; choose one")
        return _from_folder(source, os.path.realpath(out))
    if not source.lower().endswith(LIST_SUFFIXES):
        raise ValueError("a source that is a file must be a list, .json or .csv; give its folder, or write a list")
    listing = read_listing(source)
    return Source(
        candidates=listing.candidates,
        root=os.path.dirname(os.path.realpath(source)),
        is_list=True,
        has_splits=listing.has_splits,
        subsets=listing.subsets,
        entries=listing.entries,
        findings=listing.findings,
    )


def _from_folder(folder: str, out: str) -> Source:
    root, walk = os.path.realpath(folder), Walk()
    is_bids = os.path.isfile(os.path.join(root, "dataset_description.json"))
    files = tqdm(
        walk_files(root, walk, leave_out=(out,)), desc="searching", unit="file", dynamic_ncols=True, disable=None
    )
    found = sort_files(files, root, walk, is_bids_derivative if is_bids else _never)
    source = Source(dicom=found.dicom, root=root, skipped=walk.skipped, skipped_paths=walk.skipped_paths)
    source.findings = walk.findings
    images = _by_case(found.images, [entry.path for entry in found.labels])
    labels = {os.path.relpath(entry.path, root): entry for entry in found.labels}
    pairs = pair_labels(list(images), labels)
    for label, image in pairs.items():
        candidate, entry = images[image], labels.pop(label)
        candidate.label, candidate.entries = entry.path, (*candidate.entries, entry)
    for entry in labels.values():
        source.skip(entry.path, "label map without its image")
    _note_lost_labels(source, len(labels), len(pairs))
    source.candidates = sorted(images.values(), key=lambda one: os.fsencode(one.name))
    _take_test_folder(source)
    return source


def _never(name: str) -> bool:
    return False


def _by_case(images: list[Candidate], labels: Iterable[str]) -> dict[str, Candidate]:
    """Candidates by the name that their label map would have; channels of one case are joined.

    ``case_0000`` and ``case_0001`` of an image folder are channels only where ``case`` has a label map: a number at the
    end says nothing by itself.
    """
    found: dict[str, Candidate] = {}
    cases: dict[str, list[Candidate]] = {}
    stems = {os.path.basename(path).split(".")[0] for path in labels}
    for one in images:
        case = channel_of(one.name)
        if case is not None and os.path.basename(case) in stems:
            cases.setdefault(case, []).append(one)
        else:
            found[one.name] = one
    for case, channels in cases.items():
        found[f"{case}.nii.gz"] = _joined(sorted(channels, key=lambda one: one.name))
    return found


def _joined(channels: list[Candidate]) -> Candidate:
    first = channels[0]
    if len(channels) == 1:
        return first
    paths = tuple(one.images[0] for one in channels)
    findings = [finding for one in channels for finding in one.findings]
    entries = tuple(entry for one in channels for entry in one.entries)
    return Candidate(first.name, paths, entries, first.kind, listed=paths, findings=findings)


def _note_lost_labels(source: Source, lost: int, paired: int) -> None:
    if lost:
        rule = "every label map should belong to one image"
        found = f"{lost} label maps that fit no image, or several, beside {paired} that fit one: they were skipped"
        fix = "name them like their images, or write a datalist with image and label"
        source.findings.append(Finding("SKIPPED_FILES", "warn", rule, found, fix))


def _take_test_folder(source: Source) -> None:
    """Where images lie in ``imagesTr`` and ``imagesTs``, the latter are the test split."""
    folders = [_image_folder(one.name) for one in source.candidates]
    if "imagestr" in folders:
        for one, folder in zip(source.candidates, folders, strict=True):
            one.split = "test" if folder == "imagests" else None


def _image_folder(name: str) -> str | None:
    parts: Iterator[str] = (part.lower() for part in reversed(name.replace(os.sep, "/").split("/")[:-1]))
    return next((part for part in parts if part in ("imagestr", "imagests")), None)
