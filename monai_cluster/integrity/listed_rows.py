# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The rows of a datalist (JSON or CSV) as candidates; a row that cannot be used becomes one with its finding."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .candidates import PICTURE_SUFFIXES, VOLUME_SUFFIXES, Candidate
from .findings import Finding
from .walk import FileEntry, entry_of, file_suffix, is_hidden_name

__all__ = ["Listing", "read_listing"]

PATIENT_COLUMNS = ("subject", "patient")
KEPT_ENTRIES = ("labels", "classes", "box_labels", "box_convention", "modality", "name")
FILE_SUFFIXES = VOLUME_SUFFIXES + PICTURE_SUFFIXES
SPLITS = ("training", "validation", "test")
MAX_LIST_BYTES = 2**30
FIX = "correct the list"


@dataclass
class Listing:
    """What a list names.

    Attributes:
        candidates: one per row.
        subsets: further lists that only repeat rows of a split, as names of candidates.
        entries: of the list beside its rows, such as ``labels``, the names of the classes.
        has_splits: whether the list says which rows are for training.
        findings: about the list as a whole.
    """

    candidates: list[Candidate] = field(default_factory=list, repr=False)
    subsets: dict[str, list[str]] = field(default_factory=dict, repr=False)
    entries: dict[str, Any] = field(default_factory=dict, repr=False)
    has_splits: bool = False
    findings: list[Finding] = field(default_factory=list)


def read_listing(path: str) -> Listing:
    """Read the rows of a JSON list (decathlon form, a bare list, or images and volumes) or of a CSV table.

    Never raises for what the list holds; what is wrong with it becomes findings of the list or of its rows.
    """
    listing = Listing()
    base = os.path.dirname(os.path.realpath(path))
    names: dict[str, int] = {}
    try:
        rows = list(_csv_rows(path, listing) if path.lower().endswith(".csv") else _json_rows(path, listing))
    except OSError as error:
        return _refused("UNREADABLE", f"a failure of the system ({type(error).__name__})", listing)
    except (ValueError, RecursionError, MemoryError, csv.Error) as error:
        return _refused("JSON", f"text that cannot be read as a list ({type(error).__name__})", listing)
    for number, (split, kind, row) in enumerate(rows):
        candidate = _candidate(row, base, f"row {number}")
        candidate.split, candidate.kind = split, candidate.kind or kind
        listing.candidates.append(candidate)
    _take_subsets(listing)
    for candidate in listing.candidates:
        names[candidate.name] = names.get(candidate.name, 0) + 1
        if names[candidate.name] > 1:
            candidate.name += f"#{names[candidate.name]}"
    return listing


def _take_subsets(listing: Listing) -> None:
    """A list beside the splits of which every row is in one split, such as a few labelled patients, is a subset."""
    named: dict[str, list[str]] = {}
    for one in listing.candidates:
        named.setdefault(one.split or "", []).append(one.name)
    splits = [set(named.get(split, ())) for split in SPLITS]
    for name, rows in named.items():
        if name and name not in SPLITS and any(split.issuperset(rows) for split in splits):
            listing.subsets[name] = rows
    listing.candidates = [one for one in listing.candidates if one.split not in listing.subsets]


def _refused(code: str, found: str, listing: Listing) -> Listing:
    rule = "a datalist must be JSON in UTF-8, or a CSV table"
    listing.findings.append(Finding(code, "reject", rule, found, FIX))
    return listing


def _json_rows(path: str, listing: Listing) -> Iterator[tuple[str | None, str | None, Any]]:
    """Split, kind and content of each row."""
    if os.path.getsize(path) > MAX_LIST_BYTES:
        raise ValueError("too large")
    with open(path, encoding="utf-8-sig", errors="strict") as file:
        content = json.load(file)
    if isinstance(content, list):
        yield from ((None, None, row) for row in content)
        return
    if not isinstance(content, dict):
        raise ValueError("neither an object nor a list")
    if "images" in content or "volumes" in content:
        yield from _by_kind(None, content)
    listing.entries = {name: content[name] for name in KEPT_ENTRIES if name in content}
    for split, rows in content.items():
        if isinstance(rows, dict) and ("images" in rows or "volumes" in rows) and split not in KEPT_ENTRIES:
            listing.has_splits = True
            yield from _by_kind(split, rows)
        elif _is_split(split, rows):
            listing.has_splits = True
            yield from ((split, None, row) for row in rows)


def _is_split(name: str, rows: Any) -> bool:
    if not isinstance(rows, list) or name in (*KEPT_ENTRIES, "images", "volumes"):
        return False
    return name in SPLITS or all(isinstance(row, (dict, str)) for row in rows)


def _by_kind(split: str | None, content: Mapping[str, Any]) -> Iterator[tuple[str | None, str | None, Any]]:
    for kind in ("image", "volume"):
        rows = content.get(f"{kind}s", [])
        yield from ((split, kind, row) for row in (rows if isinstance(rows, list) else []))


def _csv_rows(path: str, listing: Listing) -> Iterator[tuple[str | None, str | None, Any]]:
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        listing.has_splits = "split" in (reader.fieldnames or ())
        for row in reader:
            kept = {name: value for name, value in row.items() if name and value not in ("", None)}
            split = kept.pop("split", None)
            yield (split or "training") if listing.has_splits else None, None, kept


def _candidate(row: Any, base: str, where: str) -> Candidate:
    if isinstance(row, str):
        row = {"image": row}
    image = row.get("image") if isinstance(row, dict) else None
    paths = [image] if isinstance(image, str) else image
    if not isinstance(paths, list) or not paths or not all(isinstance(one, str) and one for one in paths):
        found = f"{type(image).__name__} where a path is meant" if image is not None else "a row without it"
        code = "KEY" if image is None else "TYPE"
        finding = Finding(code, "reject", "every row must have 'image', a path or a list of paths", found, FIX)
        return Candidate(where, (), (), findings=[finding])
    absolute = tuple(os.path.normpath(os.path.join(base, os.path.expanduser(one))) for one in paths)
    columns = {str(name): value for name, value in row.items() if name != "image"}
    candidate = Candidate(
        "|".join(os.path.relpath(one, base) for one in absolute)
        + (f"#frame={columns['frame']}" if "frame" in columns else ""),
        absolute,
        (),
        columns.get("kind") if columns.get("kind") in ("image", "volume") else None,
        listed=absolute[0] if isinstance(image, str) else absolute,
        columns=columns,
    )
    if any("\0" in one for one in absolute):
        rule = "a path must not hold a null character"
        candidate.findings.append(Finding("PATH", "reject", rule, "one that does", FIX))
        return candidate
    _take_patient(candidate)
    _take_paths(candidate, base)
    _take_entries(candidate)
    return candidate


def _take_patient(candidate: Candidate) -> None:
    for name in PATIENT_COLUMNS:
        value = candidate.columns.pop(name, None)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            candidate.subject = candidate.subject or str(value).strip()
            candidate.subject_source = "column"


def _take_paths(candidate: Candidate, base: str) -> None:
    """Columns that hold paths move to ``paths``: relative ones would not survive a move of the list."""
    for name, value in list(candidate.columns.items()):
        if not isinstance(value, str) or "\0" in value:
            continue
        path = os.path.normpath(os.path.join(base, os.path.expanduser(value)))
        known = file_suffix(value) in FILE_SUFFIXES
        if name == "label" and (known or os.path.isfile(path)):
            candidate.label = path
            del candidate.columns[name]
        elif name not in ("kind", "modality", "label") and os.path.isfile(path):
            candidate.paths[name] = path
            del candidate.columns[name]


def _take_entries(candidate: Candidate) -> None:
    """Stat every file of the row; a folder stands for the slices inside it."""
    entries: list[FileEntry] = []
    for path in candidate.images:
        if os.path.isdir(path) and len(candidate.images) == 1 and file_suffix(path) not in FILE_SUFFIXES:
            candidate.series = True
            inside = sorted((name for name in _names(path) if not is_hidden_name(name)), key=os.fsencode)
            files = [os.path.join(path, name) for name in inside]
            entries += [entry_of(one) for one in files if not os.path.isdir(one)]
        else:
            entries.append(entry_of(path))
    if candidate.label is not None:
        entries.append(entry_of(candidate.label))
    candidate.entries = tuple(entries)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
