# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Group DICOM files into series, and inspect one series as a volume."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from .byte_stream import open_regular
from .dicom_file import inspect_frames
from .dicom_headers import content_name
from .dicom_records import FileRecord, read_record
from .findings import Finding, InputRefusedError, Inspection
from .guarding import guarded
from .limits import Limits

__all__ = ["SeriesFiles", "SeriesGroup", "group_series", "inspect_series"]

Path = str | os.PathLike[str]

MAX_FILES = 50_000
NO_SLICES = ("EMPTY", "NOT_A_FILE", "MISSING", "NOT_AN_IMAGE", "NO_PIXELS", "LINK")
OWN_FOLDER = "put each series into its own folder"


@dataclass(frozen=True)
class SeriesGroup:
    """Files of one series that share size and orientation.

    Attributes:
        records: one per file, in the order of their instances' positions in the list.
        modality: such as ``CT``.
        localiser: whether the files are a localiser.
        num_frames: slices in all files.
    """

    records: tuple[FileRecord, ...] = field(repr=False)
    modality: str
    localiser: bool
    num_frames: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """Of the files. They identify patients more often than not: keep them out of reports."""
        return tuple(record.path for record in self.records)


@dataclass
class SeriesFiles:
    """What a number of files turned out to be.

    Attributes:
        series: groups of slices that belong together.
        skipped: number of files that are no DICOM images, by what they are.
        broken: DICOM files that cannot be used, each with its findings.
        num_files: files looked at.
    """

    series: list[SeriesGroup] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[Path, list[Finding]]] = field(default_factory=list, repr=False)
    num_files: int = 0


def group_series(paths: Iterable[Path], limits: Limits | None = None) -> SeriesFiles:
    """Sort files into series by SeriesInstanceUID, and within it by frame of reference, orientation and size.

    Args:
        paths: files, or folders whose files (and those of folders inside them) are taken. Links to folders are not
            followed, hidden files are left out.
        limits: sizes that are refused.
    """
    found, records = SeriesFiles(), []
    for path in _files(paths):
        found.num_files += 1
        record = _record(path, found, limits or Limits())
        if record is not None:
            records.append(record)
    series: dict[str, list[FileRecord]] = {}
    for record in records:
        series.setdefault(record.series, []).append(record)
    groups: dict[tuple[object, ...], list[FileRecord]] = {}
    for same in series.values():
        framed = _several_frames_of_reference(same)
        for record in same:
            groups.setdefault((*_key(record), record.frame_of_reference if framed else ""), []).append(record)
    found.series = [
        SeriesGroup(tuple(group), group[0].modality, group[0].localiser, sum(len(one.frames) for one in group))
        for group in groups.values()
    ]
    return found


def inspect_series(source: Path | Sequence[Path], limits: Limits | None = None) -> Inspection:
    """Inspect the files of one series as a volume.

    Args:
        source: a folder, of which the files directly inside are taken as the package's reader does, or a list of files.
        limits: sizes that are refused.

    Returns:
        facts with shape ``x y z`` and an affine in RAS, and findings.
    """
    limits, inspection = limits or Limits(), Inspection()
    with guarded(inspection):
        paths, folders = _listed(source)
        found = SeriesFiles(num_files=len(paths))
        if folders:
            found.skipped["folder"] += folders
        if len(paths) > MAX_FILES:
            rule = f"a series must have at most {MAX_FILES} files"
            inspection.reject("TOO_LARGE", rule, f"{len(paths)} files", OWN_FOLDER)
            return inspection
        read = (_record(path, found, limits) for path in paths)
        records = [record for record in read if record is not None]
        _report_broken(found, len(records), inspection)
        if records:
            _report_skipped(found.skipped, inspection)
            inspection.facts.num_files = len(records)
            if _one_series(records, inspection):
                inspect_frames(records, inspection, limits)
        elif not found.broken:
            _report_nothing(found, inspection)
    return inspection


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            yield from (os.path.join(folder, name) for name in sorted(names, key=os.fsencode) if name[0] != ".")


def _listed(source: Path | Sequence[Path]) -> tuple[list[Path], int]:
    """Files to look at, and how many folders lie beside them."""
    if not isinstance(source, (str, os.PathLike)):
        return list(source), 0
    try:
        with os.scandir(source) as entries:
            shown = sorted((one for one in entries if one.name[0] != "."), key=lambda one: os.fsencode(one.name))
            folders = sum(one.is_dir() for one in shown)
            return [one.path for one in shown if not one.is_dir()], folders
    except NotADirectoryError:
        return [source], 0
    except ValueError:
        found = "one that does"
        finding = Finding("PATH", "reject", "a path must not hold a null character", found, "correct the list")
    except FileNotFoundError:
        finding = Finding(
            "MISSING", "reject", "a series must be a folder or files", "no such folder", "correct the list"
        )
    except OSError as error:
        denied = isinstance(error, PermissionError)
        found = "permission denied" if denied else f"the system's error {error.errno}"
        code = "PERMISSION" if denied else "UNREADABLE"
        finding = Finding(code, "reject", "a folder must be readable", found, "give the right to read it")
    raise InputRefusedError([finding])


def _record(path: Path, found: SeriesFiles, limits: Limits) -> FileRecord | None:
    """The record of an image; anything else is noted as skipped (no slice at all) or broken (a slice that is)."""
    local = Inspection()
    with guarded(local):
        record = read_record(path, limits)
    if not local.findings:
        return record
    code = local.findings[0].code
    if code in NO_SLICES:
        found.skipped[_what(path, code, local.findings[0])] += 1
    else:
        found.broken.append((path, local.findings))
    return None


def _what(path: Path, code: str, finding: Finding) -> str:
    if code == "EMPTY":
        return "empty file"
    if code in ("NOT_A_FILE", "MISSING", "LINK"):
        return "broken link or special file"
    if code == "NO_PIXELS":
        return "DICOM file without pixels"
    with open_regular(path) as file:
        name = content_name(file.read(560))
    return finding.found.split(",")[0] if name == "DICOM" else name


def _key(record: FileRecord) -> tuple[object, ...]:
    orientation = record.frames[0].orientation
    turned = None if orientation is None else tuple(round(value, 2) + 0.0 for value in orientation)
    size = (record.declared.rows, record.declared.columns)
    alone = str(record.path) if not record.series else ""  # without a UID, a file is its own series
    return record.series, turned, size, record.localiser, alone


def _several_frames_of_reference(records: Sequence[FileRecord]) -> bool:
    """Whether slices belong to different frames. De-identification that gives every slice its own says nothing."""
    return 1 < len({record.frame_of_reference for record in records}) <= len(records) / 2


def _report_broken(found: SeriesFiles, num_good: int, inspection: Inspection) -> None:
    """One finding for each code, with the number of files that have it."""
    counts: Counter[str] = Counter()
    first: dict[str, Finding] = {}
    for _, findings in found.broken:
        for finding in findings:
            counts[finding.code] += 1
            first.setdefault(finding.code, finding)
    total = num_good + len(found.broken)
    for code, finding in first.items():
        told = f"{finding.found}, in {counts[code]} of {total} slices"
        inspection.findings.append(replace(finding, found=told))


def _report_skipped(skipped: Counter[str], inspection: Inspection) -> None:
    if skipped:
        inspection.warn(
            "SKIPPED_FILES",
            "a series' folder should hold nothing but its slices",
            f"{sum(skipped.values())} skipped (ignored): {_counted(skipped)}",
            "check that none of them is a slice",
        )


def _report_nothing(found: SeriesFiles, inspection: Inspection) -> None:
    objects = any(name.startswith("a DICOM") for name in found.skipped)
    stripped = "DICOM file without pixels" in found.skipped
    code = "NOT_AN_IMAGE" if objects else "NO_PIXELS" if stripped else "NOT_AN_IMAGE" if found.num_files else "EMPTY"
    listed = _counted(found.skipped) or "no files at all (empty)"
    inspection.reject(code, "a series must hold DICOM images with pixels", f"not an image: {listed}", "check the path")


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in names.most_common(8))


def _one_series(records: Sequence[FileRecord], inspection: Inspection) -> bool:
    """Whether the files are one series of one patient, without copies of a file."""
    num_series = len({record.series for record in records})
    if num_series > 1:
        counts = Counter(record.series for record in records)
        modalities = {record.series: record.modality or "unknown modality" for record in records}
        listed = ", ".join(f"{modalities[uid]} of {count} files" for uid, count in counts.most_common(6))
        found = f"{num_series} mixed series ({listed})"
        inspection.reject("MIXED_SERIES", "a volume must be one DICOM series", found, OWN_FOLDER)
        return False
    for what, values in (
        ("patients", {record.patient for record in records}),
        ("modalities", {record.modality for record in records}),
    ):
        if len(values) > 1:
            rule = f"a series must have one of its {what}"
            inspection.reject("MIXED_SERIES", rule, f"{len(values)} {what} in one series (mixed)", OWN_FOLDER)
    if _several_frames_of_reference(records):
        rule, found = "the slices of a series must share a frame of reference", "several in one series (mixed)"
        inspection.reject("MIXED_SERIES", rule, found, OWN_FOLDER)
    instances = Counter(record.instance for record in records if record.instance)
    copies = sum(count - 1 for count in instances.values())
    if copies:
        found = f"{copies} duplicate files (SOPInstanceUID there more than once)"
        inspection.reject("DUPLICATE", "every slice of a series must be there once", found, "remove the copies")
    return True
