# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Sort the DICOM files of a source into series, folder by folder in the workers, and remember how."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from monai_cluster.apps.check_output import CheckOutput
from monai_cluster.apps.check_source import Source
from monai_cluster.apps.check_tasks import NOT_KEPT, Inspector
from monai_cluster.apps.check_workers import Failure, Task
from monai_cluster.integrity import Finding
from monai_cluster.integrity.candidates import DICOM_SUFFIXES, Candidate
from monai_cluster.integrity.walk import FileEntry, file_suffix

__all__ = ["add_series"]

SECONDS_PER_FILE = 0.2  # beside the time of one item; a header takes milliseconds
SHARED = Finding(
    "MIXED_SERIES",
    "reject",
    "a folder must hold the slices of one series to be read as a volume",
    "other series, a localiser, or a file that stops its reader, in the same folder (mixed series)",
    "put each series into its own folder",
)


def add_series(source: Source, inspector: Inspector, link: bool = False) -> None:
    """Turn the DICOM files of a source into candidates: series, single images, and files that are broken.

    What is neither is skipped: segmentations, reports, localisers, files without pixels.

    Args:
        source: is filled; its ``dicom`` is empty afterwards.
        inspector: runs and remembers what workers say.
        link: whether a series that shares its folder is to be gathered by links; it is refused otherwise.
    """
    folders = {folder: _readable(folder, files, source) for folder, files in sorted(source.dicom.items())}
    source.dicom = {}
    by_series: dict[str, list[Candidate]] = {}
    for folder, files, answer in _answers(folders, inspector):
        _take(folder, files, answer, source, by_series)
    for parts in by_series.values():
        for one in parts:
            if one.linked and not link:
                one.findings, one.linked = [SHARED], False
            if len(parts) > 1:
                one.findings = [*one.findings, _scattered(len(parts))]
        source.candidates += parts
    source.candidates.sort(key=lambda one: os.fsencode(one.name))


def _scattered(count: int) -> Finding:
    rule, found = "the slices of a series should lie in one folder", f"slices of one series in {count} folders"
    return Finding("MIXED_SERIES", "warn", rule, found, "check whether they are parts, copies or time points")


def _readable(folder: str, files: list[FileEntry], source: Source) -> list[FileEntry]:
    """Files worth opening; an empty file, pipe or broken link called like DICOM is a candidate that will be refused."""
    kept = []
    for one in files:
        if one.state == "file" and one.size:
            kept.append(one)
        elif file_suffix(one.path) in DICOM_SUFFIXES:
            source.candidates.append(_single(one, source.root))
        else:
            source.skip(one.path, "empty file" if one.state == "file" else "special file or broken link")
    return kept


def _answers(
    folders: dict[str, list[FileEntry]], inspector: Inspector
) -> Iterator[tuple[str, list[FileEntry], dict[str, Any]]]:
    """How the files of every folder are grouped; what the index knows is not asked again."""
    asked: dict[str, str] = {}
    tasks = []
    for folder, files in folders.items():
        if not files:
            continue
        signature = inspector.signature_of_files(files)
        known = inspector.index.group(inspector.output.digest("folder", folder), signature, inspector.condition)
        if known is not None:
            yield folder, files, known
        else:
            asked[folder] = signature
            tasks.append(_task(folder, files, inspector))
    failed: list[tuple[str, Failure]] = []
    for folder, answer in inspector.run(tasks, len(tasks), "sorting DICOM files of", "folder"):
        if isinstance(answer, Failure):
            failed.append((folder, answer))  # the pool is busy: the files of the folder have their turn afterwards
        else:
            yield folder, folders[folder], _kept(folder, asked[folder], answer, "", inspector)
    for folder, failure in failed:
        answer = _one_by_one(folders[folder], failure, inspector)
        yield folder, folders[folder], _kept(folder, asked[folder], answer, inspector.condition, inspector)


def _kept(folder: str, signature: str, answer: dict[str, Any], condition: str, inspector: Inspector) -> dict[str, Any]:
    """An answer without identifiers, which the index remembers."""
    answer = _without_identifiers(answer, inspector.output)
    codes = {finding["code"] for _, findings in answer["broken"] for finding in findings}
    name = inspector.output.digest("folder", folder)
    inspector.index.save_group(name, "" if codes & NOT_KEPT else signature, condition, answer)
    return answer


def _task(folder: str, files: list[FileEntry], inspector: Inspector) -> Task:
    request = {"do": "group", "files": [one.path for one in files]}
    return Task(folder, request, inspector.limits.seconds + SECONDS_PER_FILE * len(files))


def _one_by_one(files: list[FileEntry], failure: Failure, inspector: Inspector) -> dict[str, Any]:
    """A folder that hung or killed its worker: find the files that do, and group the others."""
    bad: list[int] = []
    if len(files) > 1:
        tasks = [
            Task(index, {"do": "group", "files": [one.path]}, inspector.limits.seconds)
            for index, one in enumerate(files)
        ]
        bad = sorted(index for index, answer in inspector.pool.run(tasks) if isinstance(answer, Failure))
    good = [index for index in range(len(files)) if index not in set(bad)] if bad else []
    finding = inspector.finding_of(failure)
    answer: dict[str, Any] = {"groups": [], "broken": [], "skipped": {}}
    if good:
        again = dict(inspector.pool.run([_task("", [files[index] for index in good], inspector)]))[""]
        if isinstance(again, Failure):
            good = []
        else:
            answer = again
            for one in answer["groups"]:
                one["files"] = [good[index] for index in one["files"]]
            answer["broken"] = [[good[index], findings] for index, findings in answer["broken"]]
    lost = [index for index in range(len(files)) if index not in set(good)]
    answer["broken"] += [[index, [finding]] for index in lost]
    return answer


def _without_identifiers(answer: dict[str, Any], output: CheckOutput) -> dict[str, Any]:
    """Patient and series only as salted digests: the index holds nothing else."""
    for one in answer["groups"]:
        one["patient"] = output.digest("dicom patient", one["patient"]) if one["patient"] else ""
        one["series"] = output.digest("series", one["series"])
    return answer


def _take(
    folder: str,
    files: list[FileEntry],
    answer: dict[str, Any],
    source: Source,
    by_series: dict[str, list[Candidate]],
) -> None:
    """Turn the answer about one folder into candidates."""
    broken = {index: [Finding(**one) for one in findings] for index, findings in answer["broken"]}
    slices = [one for one in answer["groups"] if _is_series(one)]
    volumes = [one for one in slices if not one["localiser"]]
    stopping = any(_is_failure(one) for one in broken.values())
    if len(slices) == len(volumes) == 1 and not stopping:
        volumes[0]["files"] += sorted(broken)  # most likely slices of it: they must not vanish from the volume
        broken = {}
    used = set(broken)
    for one in answer["groups"]:
        used |= set(one["files"])
        if one in volumes:
            volume = _volume(
                folder, [files[index] for index in one["files"]], one, len(slices) == 1 and not stopping, source.root
            )
            by_series.setdefault(one["series"], []).append(volume)
        for index in one["files"] if one not in volumes else ():
            if one["localiser"]:
                source.skip(files[index].path, "DICOM localiser")
            else:
                source.candidates.append(_single(files[index], source.root, one["patient"]))
    for index, findings in broken.items():
        source.candidates.append(_single(files[index], source.root, findings=findings))
    rest = [one for index, one in enumerate(files) if index not in used]
    reasons = Counter(answer["skipped"])
    for one in rest:
        reason = next((name for name, count in reasons.items() if count > 0), "no image")
        reasons[reason] -= 1
        source.skip(one.path, reason)


def _is_series(one: dict[str, Any]) -> bool:
    """Slices with positions; an X-ray has none, and a file of many frames is a volume by itself."""
    return bool(one["placed"]) and one["frames"] == len(one["files"])


def _is_failure(findings: list[Finding]) -> bool:
    return any(one.code in ("TIMEOUT", "MEMORY") for one in findings)


def _single(entry: FileEntry, root: str, patient: str = "", findings: list[Finding] | None = None) -> Candidate:
    candidate = Candidate(os.path.relpath(entry.path, root), (entry.path,), (entry,), listed=entry.path)
    candidate.findings = findings or []
    if patient:
        candidate.subject, candidate.subject_source = patient, "dicom"
    return candidate


def _volume(folder: str, files: list[FileEntry], answer: dict[str, Any], alone: bool, root: str) -> Candidate:
    """A series as one candidate, named after its folder where it fills that alone."""
    name = os.path.relpath(folder, root)
    candidate = Candidate(
        name if alone else f"{name}#{answer['series'][:12]}",
        tuple(entry.path for entry in files),
        tuple(files),
        kind="volume",
        series=True,
        listed=folder,
        linked=not alone,
    )
    if answer["patient"]:
        candidate.subject, candidate.subject_source = answer["patient"], "dicom"
    return candidate
