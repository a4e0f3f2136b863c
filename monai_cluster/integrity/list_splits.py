# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The same item, patient or bytes twice: within a split a waste, in two splits a leak that flatters every score."""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from .byte_stream import open_regular
from .findings import InputRefusedError
from .limits import Limits
from .list_rows import ListRow, Tally

__all__ = ["check_bytes", "check_items", "check_patients", "without_subsets"]

PART = 1 << 20
PATIENT_COLUMNS = ("subject", "patient")
USUAL_SPLITS = ("training", "validation", "test")
LEAK_RULE = "training, validation and test must not share data"
LEAK_FIX = "split by patient, and keep every item in one split only"


def without_subsets(rows: Sequence[ListRow]) -> list[ListRow]:
    """The rows without those of lists that only repeat rows of one split, such as a few labelled patients."""
    items: dict[str | None, set[tuple[str, ...]]] = defaultdict(set)
    for row in rows:
        items[row.split].add(row.files)
    usual = [items[name] for name in USUAL_SPLITS if name in items]
    subsets = {name for name in items if name and name not in USUAL_SPLITS and any(items[name] <= one for one in usual)}
    return [row for row in rows if row.split not in subsets]


def check_items(rows: Sequence[ListRow], tally: Tally) -> None:
    """Count items that are listed twice."""
    splits: dict[tuple[object, ...], list[str | None]] = defaultdict(list)
    for row in rows:
        if row.files:
            splits[tuple(map(os.path.realpath, row.files)), str(row.columns.get("frame"))].append(row.split)
    for names in splits.values():
        if len(set(names)) > 1:
            tally.add("reject", "LEAK", LEAK_RULE, "an item in two splits at once (leak)", LEAK_FIX)
        if len(names) > len(set(names)):
            fix = "remove the repeated rows"
            tally.add("reject", "DUPLICATE", "an item must be listed once", "an item listed twice (duplicate)", fix)


def check_patients(rows: Sequence[ListRow], tally: Tally) -> None:
    """Count patients who are in more than one split."""
    splits: dict[str, set[str | None]] = defaultdict(set)
    for row in rows:
        for column in PATIENT_COLUMNS:
            value = row.columns.get(column)
            if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
                splits[str(value).strip().casefold()].add(row.split)
    leaks = sum(len(names) > 1 for names in splits.values())
    if leaks:
        tally.add("reject", "LEAK", LEAK_RULE, "a patient on both sides (leak)", LEAK_FIX, leaks)


def check_bytes(rows: Sequence[ListRow], limits: Limits, tally: Tally) -> None:
    """Count files of equal bytes under different names; only files of equal size are read."""
    sizes: dict[int, dict[str, ListRow]] = defaultdict(dict)
    for row in rows:
        for path in row.files:
            real = os.path.realpath(path)
            if os.path.isfile(real):
                sizes[os.path.getsize(real)][real] = row
    end = time.monotonic() + limits.seconds / 2
    for group in sizes.values():
        digests: dict[str, list[ListRow]] = defaultdict(list)
        for path, row in group.items() if len(group) > 1 else ():
            if time.monotonic() > end:
                found = "files that were not compared for want of time"
                tally.add("warn", "TIMEOUT", "all files should be compared", found, "raise the limit of time")
                return
            digest = _digest(path)
            if digest is not None:
                digests[digest].append(row)
        for same in digests.values():
            _count_same(same, tally)


def _count_same(rows: Sequence[ListRow], tally: Tally) -> None:
    if len(rows) < 2:
        return
    if any(one.split != other.split for one, other in combinations(rows[:2000], 2)):
        found = "the same content (identical bytes) under two names in two splits (leak)"
        tally.add("reject", "LEAK", LEAK_RULE, found, LEAK_FIX)
    else:
        found = "identical bytes under two names (duplicate)"
        tally.add("warn", "DUPLICATE", "an item should be listed once", found, "keep one of them")


def _digest(path: str) -> str | None:
    state = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while part := file.read(PART):
                state.update(part)
    except (InputRefusedError, OSError):
        return None
    return state.hexdigest()
