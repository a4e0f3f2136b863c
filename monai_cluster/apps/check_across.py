# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What shows only when items are compared: copies, look-alikes, outliers, and leaks between splits and lists."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from monai_cluster.apps.check_overview import Item, Overview
from monai_cluster.apps.check_splits import split_name, split_rank
from monai_cluster.integrity import Finding
from monai_cluster.integrity.duplicates import close_pairs, correlations, exact_copies
from monai_cluster.integrity.outliers import find_outliers

__all__ = [
    "OtherList",
    "add_copies",
    "add_look_alikes",
    "add_outliers",
    "add_overlap",
    "add_split_patients",
    "read_other",
]

Severity = Literal["warn", "reject"]
BITS, ALIKE = 3, 0.98  # two pictures look alike within so many bits of their hashes, above this correlation
SHOWN = 5
ONCE = "every content should be listed once"


@dataclass(frozen=True)
class OtherList:
    """Salted content hashes and patients of a list that was checked before."""

    contents: frozenset[str]
    subjects: frozenset[str]


def read_other(path: str, salt_id: str) -> OtherList:
    """Read the ``datalist.json`` of a check, given as such or by the check's folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it has no content hashes, or hashes of another salt, which cannot be compared.
    """
    file = Path(path) / "datalist.json" if os.path.isdir(path) else Path(path)
    if not file.is_file():
        raise FileNotFoundError("against must be the folder of a check, or its datalist.json; check the path")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"against must be JSON, got {type(error).__name__}; give the folder of a check") from None
    values = content.values() if isinstance(content, dict) else ()
    rows = [row for rows in values if isinstance(rows, list) for row in rows if isinstance(row, dict)]
    contents = frozenset(str(row["content_hash"]) for row in rows if row.get("content_hash"))
    if not contents:
        raise ValueError("the list of against has no content hashes: check it first, and give the folder of that check")
    if content.get("salt_id") != salt_id:
        raise ValueError(
            "the list of against was checked with another salt, so that no hash can be equal: "
            "check into a new folder with salt_from"
        )
    return OtherList(contents, frozenset(str(row["subject"]) for row in rows if row.get("subject")))


def add_copies(view: Overview, duplicates: Severity, leaks: Severity) -> None:
    """Note items of equal content: the copy in the most harmful place stays (test before validation before others)."""
    places = view.usable()
    leaking = 0
    for group in exact_copies([view.items[place].content for place in places]):
        ordered = sorted(
            (places[one] for one in group), key=lambda place: (-split_rank(view.items[place].split), place)
        )
        first = view.items[ordered[0]]
        same_file = _real_paths(view, ordered[0])
        for place in ordered[1:]:
            item = view.items[place]
            other = "" if item.subject == first.subject else ", listed as another patient"
            leak = item.split != first.split
            leaking += leak
            severity = "reject" if _real_paths(view, place) == same_file else leaks if leak else duplicates
            found = f"the same content as {first.id}{' in another split' if leak else ''} (an exact duplicate{other})"
            fix = "keep one of them; find out whose it is" if other else "keep one of them"
            item.add(Finding("LEAK" if leak else "DUPLICATE", severity, ONCE, found, fix))
    if leaking:
        rule, found = "splits must not share data", f"{leaking} items whose content is in another split too"
        view.findings.append(Finding("LEAK", leaks, rule, found, "keep each in one split; see the items"))


def _real_paths(view: Overview, place: int) -> list[str]:
    listed = view.candidates[place].listed
    return [os.path.realpath(one) for one in ([listed] if isinstance(listed, str) else listed)]


def add_look_alikes(view: Overview) -> None:
    """Warn of items of different patients whose middle slices look the same; copies were noted before."""
    places = [place for place in view.usable() if view.items[place].picture is not None]
    hashes = np.array([view.items[place].picture for place in places], dtype=np.uint64)
    pairs = [
        (places[one], places[other])
        for one, other in close_pairs(hashes, BITS).tolist()
        if _comparable(view.items[places[one]], view.items[places[other]])
    ]
    involved = sorted({place for pair in pairs for place in pair})
    grids = view.index.grids(involved)
    rows = {place: row for row, place in enumerate(grids)}
    kept = [pair for pair in pairs if pair[0] in rows and pair[1] in rows]
    if not kept:
        return
    numbers = np.array([[rows[one], rows[other]] for one, other in kept], dtype=np.int64)
    alike = correlations(np.stack(list(grids.values())), numbers)
    found: dict[int, list[tuple[float, int]]] = {}
    for (one, other), value in zip(kept, alike.tolist(), strict=True):
        if value > ALIKE:
            found.setdefault(one, []).append((value, other))
            found.setdefault(other, []).append((value, one))
    for place, others in found.items():
        value, other = max(others)
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        rule = "different patients should not look the same"
        told = f"a near duplicate of {view.items[other].id}{more} (thumbnails correlate with {value:.3f})"
        fix = "look at both: keep one of them, or say that both are of one patient"
        view.items[place].add(Finding("DUPLICATE", "warn", rule, told, fix))


def _comparable(one: Item, other: Item) -> bool:
    """Of different patients, of one kind, and of the same shape up to its size; not the same content."""
    if one.subject == other.subject or one.sides is None or other.sides is None or one.content == other.content:
        return False
    same_shape = max(abs(a - b) for a, b in zip(one.sides, other.sides, strict=True)) <= 1
    return same_shape and one.facts["kind"] == other.facts["kind"]


def add_outliers(view: Overview, factor: float) -> None:
    """Warn of items whose spacing, sides or values stand out among their kind and modality."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place in view.usable():
        groups.setdefault(view.items[place].group, []).append(place)
    for places in groups.values():
        found = find_outliers([view.items[place].facts for place in places], factor)
        view.findings += found.whole
        for index, findings in found.items.items():
            for finding in findings:
                view.items[places[index]].add(finding)


def add_split_patients(view: Overview, leaks: Severity) -> None:
    """Note patients who stand in two splits of a list; with ``reject`` only the most harmful place keeps them."""
    splits: dict[str, set[str]] = {}
    for place in view.usable():
        item = view.items[place]
        if item.split is not None:
            splits.setdefault(item.subject, set()).add(item.split)
    shared = {
        subject: max(names, key=lambda one: (split_rank(one), one))
        for subject, names in splits.items()
        if len(names) > 1
    }
    if not shared:
        return
    rule = "a patient must stand in one split only"
    named = sorted({name for subject in shared for name in splits[subject]})
    found = f"{len(shared)} patients in more than one of {', '.join(split_name(name) for name in named)} (a leak)"
    view.findings.append(Finding("LEAK", leaks, rule, found, "keep each patient in one split"))
    for place in view.usable():
        item = view.items[place]
        if item.split is not None and item.split != shared.get(item.subject, item.split):
            told = f"a patient ({item.subject}) who is in {split_name(shared[item.subject])} too"
            item.add(Finding("LEAK", leaks, rule, told, "keep the patient in one split"))


def add_overlap(view: Overview, other: OtherList, leaks: Severity) -> None:
    """Note items whose content, or patient, is in the list that leaks are looked for in."""
    same = [place for place in view.usable() if view.items[place].content in other.contents]
    rule = "nothing may be in the other list too"
    for place in same:
        found = "content that is in the other list too (a leak between lists)"
        view.items[place].add(Finding("LEAK", leaks, rule, found, "take it off one of both lists"))
    if same:
        found = f"{len(same)} items whose content is in the other list too"
        view.findings.append(Finding("LEAK", leaks, rule, found, "take them off one of both lists"))
    for place in view.usable():
        item = view.items[place]
        # names of folders and files, such as sub-01, say nothing about patients of another data set
        if item.subject in other.subjects and view.candidates[place].subject_source in ("column", "dicom"):
            rule, found = "no patient should be in the other list too", f"a patient ({item.subject}) of the other list"
            item.add(Finding("LEAK", "warn", rule, found, "use both lists on the same side only"))
