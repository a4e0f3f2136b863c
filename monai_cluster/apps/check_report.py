# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Write what a check found: the report and the quarantine without paths, the datalist and the table of items with."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from monai_cluster.apps.check_output import CheckOutput
from monai_cluster.apps.check_overview import Judged, Overview
from monai_cluster.apps.check_source import Source
from monai_cluster.apps.check_splits import SPLITS, split_name
from monai_cluster.keys import ClusterKeys as Keys

__all__ = ["Counts", "count", "link_series", "write_datalist", "write_items", "write_quarantine", "write_report"]

NAMES = ("accepted", "warned", "rejected")


@dataclass
class Counts:
    """Numbers of items and files by verdict; every file that was found is in one of them.

    Attributes:
        items: ``accepted``, ``warned``, ``rejected``.
        files: the same, ``skipped``, and ``found``, which is their sum.
        skipped: files passed over, by reason.
        codes: items that have a finding of a code, by severity and code.
        splits: items and patients of each split of the datalist.
    """

    items: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    files: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    codes: dict[str, dict[str, int]] = field(default_factory=dict)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)


def count(view: Overview, source: Source) -> Counts:
    """Count items and files; a file that several rows name counts by the best of them."""
    counts, files = Counts(), dict[str, int]()
    codes: dict[str, Counter[str]] = {"reject": Counter(), "warn": Counter()}
    for one in view.judged():
        counts.items[NAMES[one.item.severity]] += 1
        for severity, code in {(finding.severity, finding.code) for finding in one.findings}:
            codes[severity][code] += 1
        for entry in one.candidate.entries:
            files[entry.path] = min(files.get(entry.path, len(NAMES)), one.item.severity)
    by_verdict = Counter(files.values())
    counts.files = {name: by_verdict[place] for place, name in enumerate(NAMES)}
    counts.files |= {"skipped": source.skipped.total()}
    counts.files["found"] = sum(counts.files.values())
    counts.skipped = dict(source.skipped.most_common())
    counts.codes = {severity: dict(found.most_common()) for severity, found in codes.items()}
    patients: dict[str, set[str]] = {}
    for item in view.items:
        if item.is_usable and item.split is not None:
            patients.setdefault(split_name(item.split), set()).add(item.subject)
    numbers = Counter(split_name(item.split) for item in view.items if item.is_usable)
    counts.splits = {name: {"items": numbers[name], "patients": len(who)} for name, who in patients.items()}
    return counts


def write_report(view: Overview, counts: Counts, head: dict[str, Any], output: CheckOutput) -> None:
    """``report.json``: counts, findings of the whole, and every item; written one item at a time."""
    whole = {**head, "counts": asdict(counts), "list": [asdict(one) for one in view.findings]}
    with output.write("report.json") as file:
        file.write(json.dumps(whole, indent=1)[:-2] + ',\n "items": [')
        for place, one in enumerate(view.judged()):
            file.write((",\n  " if place else "\n  ") + json.dumps(_report_row(one)))
        file.write("\n ]\n}\n")


def _report_row(one: Judged) -> dict[str, Any]:
    return {
        "id": one.item.id,
        "verdict": one.verdict,
        "codes": sorted({finding.code for finding in one.findings}),
        "subject": one.item.subject,
        "findings": [asdict(finding) for finding in one.findings],
        "facts": one.facts,
    }


def write_quarantine(view: Overview, output: CheckOutput) -> None:
    """``quarantine.json``: ids of rejected items with the reasons; their files stay where they are."""
    rejected = [
        {"id": one.item.id, "reasons": [asdict(finding) for finding in one.findings if finding.severity == "reject"]}
        for one in view.judged()
        if not one.item.is_usable
    ]
    output.write_json("quarantine.json", {"list": [asdict(one) for one in view.findings], "items": rejected})


def write_items(view: Overview, source: Source, output: CheckOutput) -> None:
    """``items.csv``: which path an id stands for, and which files were skipped."""
    with output.write("items.csv") as file:
        table = csv.writer(file)
        table.writerow(["id", "verdict", "path", "label", "note"])
        for one in view.judged():
            listed = _listed(one.candidate.listed)
            many = f"{len(one.candidate.images)} files" if one.candidate.series else ""
            table.writerow([one.item.id, one.verdict, "|".join(listed), one.candidate.label or "", many])
        for path, reason in source.skipped_paths:
            table.writerow(["", "skipped", path, "", reason])


def _listed(listed: str | tuple[str, ...]) -> tuple[str, ...]:
    return (listed,) if isinstance(listed, str) else listed


def write_datalist(view: Overview, source: Source, output: CheckOutput) -> None:
    """``datalist.json``: accepted and warned items by split, for ``load_datalist``; paths relative to the file."""
    splits: dict[str, list[dict[str, Any]]] = {name: [] for name in SPLITS}
    members: dict[str, list[str]] = {}
    for subset, names in source.subsets.items():
        splits[subset] = []
        for name in names:
            members.setdefault(name, []).append(subset)
    for one in view.judged():
        if one.item.is_usable and one.item.split is not None:
            row = _row(one, output)
            for split in (one.item.split, *members.get(one.candidate.name, ())):
                splits.setdefault(split, []).append(row)
    kept = {name: value for name, value in source.entries.items() if name not in splits}
    output.write_json("datalist.json", {**kept, "salt_id": output.salt_id, **splits})


def _row(one: Judged, output: CheckOutput) -> dict[str, Any]:
    candidate, facts = one.candidate, one.facts
    listed = os.path.join("series", one.item.id) if candidate.linked else candidate.listed
    row = {**candidate.columns, **{name: _relative(path, output) for name, path in candidate.paths.items()}}
    row[Keys.IMAGE] = _relative(listed, output) if isinstance(listed, str) else [_relative(p, output) for p in listed]
    if candidate.label is not None:
        row[Keys.LABEL] = _relative(candidate.label, output)
    found = {
        "item": one.item.id,
        Keys.SUBJECT: one.item.subject,
        Keys.KIND: facts.get("kind"),
        Keys.MODALITY: facts.get("modality"),
        "shape": facts.get("shape"),
        "spacing": facts.get("spacing"),
        "content_hash": one.item.content,
    }
    return row | {name: value for name, value in found.items() if value is not None}


def _relative(path: str, output: CheckOutput) -> str:
    if not os.path.isabs(path):
        return path.replace(os.sep, "/")
    try:
        return os.path.relpath(path, output.root).replace(os.sep, "/")
    except ValueError:  # another drive
        return path


def link_series(judged: Iterable[Judged], output: CheckOutput) -> None:
    """Gather series that share a folder as numbered links in ``series/ID``, so that each can be read as a volume."""
    for one in judged:
        if not (one.candidate.linked and one.item.is_usable):
            continue
        folder = output.root / "series" / one.item.id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.is_symlink():
                old.unlink()
        for number, path in enumerate(one.candidate.images):
            os.symlink(path, folder / f"{number:05d}.dcm")
