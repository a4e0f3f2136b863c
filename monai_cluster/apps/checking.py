# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Check a folder or list of images before anything learns from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any, Literal

from monai_cluster.apps.check_across import (
    OtherList,
    add_copies,
    add_look_alikes,
    add_outliers,
    add_overlap,
    add_split_patients,
    read_other,
)
from monai_cluster.apps.check_index import CheckIndex
from monai_cluster.apps.check_output import CheckOutput, open_output
from monai_cluster.apps.check_overview import Overview
from monai_cluster.apps.check_page import write_page
from monai_cluster.apps.check_report import (
    Counts,
    count,
    link_series,
    write_datalist,
    write_items,
    write_quarantine,
    write_report,
)
from monai_cluster.apps.check_series import add_series
from monai_cluster.apps.check_settings import CheckResult, CheckSettings, changed_limits
from monai_cluster.apps.check_source import Source, find_source
from monai_cluster.apps.check_splits import assign_splits, subject_id, take_subjects
from monai_cluster.apps.check_tasks import Inspector, Tally, checker_version
from monai_cluster.apps.check_workers import Failure, Task, WorkerPool
from monai_cluster.integrity import Finding
from monai_cluster.integrity.outliers import FEWEST

__all__ = ["check", "run_check"]

ANSWER = "monai_cluster.integrity.candidate_inspection:answer"
JUDGED_BY_ITEM = {"BOX", "DUPLICATE", "LEAK", "MISSING"}  # one row does not spoil the list
PRELOAD = ("monai_cluster.integrity.candidate_inspection",)


def check(
    source: str,
    out: str,
    against: str | None = None,
    salt_from: str | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    subject_pattern: str | None = None,
    num_classes: int | None = None,
    contact_sheet: bool = True,
    leaks: Literal["reject", "warn"] = "reject",
    duplicates: Literal["reject", "warn"] = "reject",
    outlier_factor: float = 4.0,
    link_series: bool = False,
    num_workers: int | None = None,
    limits: Mapping[str, Any] | None = None,
) -> CheckResult:
    """Inspect every image, volume and label map of a folder or list whole, and write a datalist of those to be trusted.

    Nothing is moved, changed or deleted. Call again after a crash, or when files came or went: what is unchanged is
    not read again. Reports name items by salted ids; only ``datalist.json`` and ``items.csv`` hold paths.

    Args:
        source: folder of scans (NIfTI, NRRD, MetaImage, pictures, DICOM, BIDS), or a datalist JSON or CSV.
        out: folder of the check; a new one, or one of an earlier check of the same source.
        against: folder or datalist of another check; items that are in there too are leaks.
        salt_from: folder of another check whose salt is shared, so that hashes can be compared later.
        fractions: of patients for training, validation and test, where the source has no splits.
        seed: of the order in which patients are given to splits.
        subject_pattern: regular expression that finds the patient in relative paths, such as (P[0-9]+)_.
        num_classes: classes of label maps, background included; label values beyond are refused.
        contact_sheet: show thumbnails in the report; they may show faces.
        leaks: what to do about data or patients in two splits or lists: reject all but one copy, or warn.
        duplicates: what to do about copies inside a split: reject all but one, or warn.
        outlier_factor: how far from the median of its modality an item may be without a warning.
        link_series: gather DICOM series that share a folder as links in out/series; they are refused otherwise.
        num_workers: processes that inspect; as many as there are cores, up to 8, by default.
        limits: of sizes, time and memory, by the names of monai_cluster.integrity.Limits, such as seconds=300.

    Returns:
        counts, and the exit code of the command: 0 where all items were accepted or warned about, 3 where any item or
        the source as a whole was rejected.

    Raises:
        FileExistsError: if ``out`` holds anything else.
        FileNotFoundError: for a missing source, or another check that is missing.
        RuntimeError: if another check works in ``out``, or workers cannot be started.
        ValueError: for settings that make no sense, and for hashes that cannot be compared.
    """
    settings = CheckSettings(
        against=against,
        salt_from=salt_from,
        fractions=tuple(fractions),
        seed=seed,
        subject_pattern=subject_pattern,
        num_classes=num_classes,
        contact_sheet=contact_sheet,
        leaks=leaks,
        duplicates=duplicates,
        outlier_factor=outlier_factor,
        link_series=link_series,
        num_workers=min(8, os.cpu_count() or 1) if num_workers is None else num_workers,
        limits=changed_limits(limits or {}),
    )
    return run_check(source, out, settings)


def run_check(
    source: str, out: str, settings: CheckSettings, answer: str = ANSWER, preload: Sequence[str] = PRELOAD
) -> CheckResult:
    """:func:`check` with settings in one piece.

    Args:
        source: as there.
        out: as there.
        settings: as there.
        answer: ``module:function`` that workers answer requests with.
        preload: modules that workers import before they begin.
    """
    assign_splits([], settings.fractions, settings.seed)  # refuse settings before anything is read
    take_subjects([], settings.subject_pattern)
    found = find_source(source, out)
    output = open_output(out, source, settings.salt_from, settings.against)
    other = None if settings.against is None else read_other(settings.against, output.salt_id)
    with (
        closing(CheckIndex(output.root / "index.sqlite")) as index,
        WorkerPool(settings.num_workers, settings.limits, answer, preload) as pool,
    ):
        inspector = Inspector(output, index, pool, settings.limits, settings.num_classes)
        if found.is_list:
            found.findings += _inspect_list(source, found, inspector)
        add_series(found, inspector, settings.link_series)
        unknown = take_subjects(found.candidates, settings.subject_pattern)
        tally = inspector.inspect(found.candidates)
        pool.close()
        view = _compared(found, index, output, settings, other)
        _note_patients(view, found, unknown)
        if not settings.contact_sheet:
            index.drop_thumbnails()
        counts = _write(view, found, output, settings, tally)
    return CheckResult(output.root, counts, tally, any(one.severity == "reject" for one in view.findings))


def _inspect_list(source: str, found: Source, inspector: Inspector) -> list[Finding]:
    """Findings of the list as a text; items are judged by their files."""
    task = Task("list", {"do": "list", "path": source}, inspector.limits.seconds)
    answer = dict(inspector.pool.run([task]))["list"]
    if isinstance(answer, Failure):
        return [Finding(**inspector.finding_of(answer))]
    known = {one.code for one in found.findings} | JUDGED_BY_ITEM
    return [Finding(**one) for one in answer["findings"] if one["code"] not in known]


def _compared(
    found: Source, index: CheckIndex, output: CheckOutput, settings: CheckSettings, other: OtherList | None
) -> Overview:
    """All items with what comparing them adds, and with splits."""
    subjects = [subject_id(one, output) for one in found.candidates]
    view = Overview(index, found.candidates, subjects, lambda content: output.digest("content", content)[:32])
    view.findings = found.findings
    if not view.items and not any(one.code == "EMPTY" for one in view.findings):
        rule, fix = "a source must hold images", "check the path and the suffixes of the files"
        view.findings.append(Finding("EMPTY", "reject", rule, "nothing to check (empty)", fix))
    if other is not None:
        add_overlap(view, other, settings.leaks)
    add_copies(view, settings.duplicates, settings.leaks)
    add_split_patients(view, settings.leaks)
    add_look_alikes(view)
    add_outliers(view, settings.outlier_factor)
    if not found.has_splits:
        _split(view, index, settings)
    return view


def _split(view: Overview, index: CheckIndex, settings: CheckSettings) -> None:
    """Give a split to every usable item, by patient; those that a folder's layout names keep theirs."""
    by_layout = {item.subject for item in view.items if item.split is not None}
    fractions = (*settings.fractions[:2], 0.0) if by_layout and sum(settings.fractions[:2]) else settings.fractions
    patients = list(dict.fromkeys(view.items[place].subject for place in view.usable()))
    drawn = [one for one in patients if one not in by_layout]
    purpose = f"{fractions} {settings.seed}"
    splits = assign_splits(drawn, fractions, settings.seed, index.splits(purpose))
    index.save_splits(purpose, splits)
    for item in view.items:
        item.split = item.split or splits.get(item.subject)


def _note_patients(view: Overview, found: Source, unknown: int) -> None:
    """Say where splits by patient could not be what they are meant to be."""
    if unknown and not found.has_splits:
        rule, fix = "the patient of every item should be known", "give subject_pattern, or a list with a column subject"
        told = f"{unknown} items of unknown patients: each counts as a patient of its own when splits are made"
        view.findings.append(Finding("KEY", "warn", rule, told, fix))
    patients = {view.items[place].subject for place in view.usable()}
    if len(patients) == 1 and len(view.items) >= FEWEST:
        rule, told = "splits need several patients", f"{len(view.items)} items that all carry one patient's number"
        view.findings.append(
            Finding("KEY", "warn", rule, told, "give subject_pattern, or a list with a column subject")
        )


def _write(view: Overview, found: Source, output: CheckOutput, settings: CheckSettings, tally: Tally) -> Counts:
    counts = count(view, found)
    head = {
        "format": "monai_cluster check report 1",
        "checker": checker_version(),
        "salt_id": output.salt_id,
        "settings": settings.shown(),
        "run": asdict(tally),
    }
    write_report(view, counts, head, output)
    write_quarantine(view, output)
    write_items(view, found, output)
    link_series(view.judged(), output)
    write_datalist(view, found, output)
    write_page(view, counts, output, settings.contact_sheet)
    return counts
