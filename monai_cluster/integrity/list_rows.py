# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The rows of a JSON or CSV list, with the split each stands in; what is wrong with their form becomes findings."""

from __future__ import annotations

import csv
import difflib
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .byte_stream import refuse
from .findings import Finding, Inspection
from .limits import Limits
from .strict_json import decode_text, read_bytes, read_json

__all__ = ["SPLITS", "ListRow", "ListedRow", "Tally", "closest", "read_rows", "real_path"]

SPLITS = ("training", "validation", "test")
KINDS = ("images", "volumes")
DESCRIPTIONS = ("labels", "classes", "box_labels", "modality", "box_convention")
FIX = "correct the list"


@dataclass
class ListRow:
    """One row: its split (None in a list without splits) and its columns; ``files`` are the images' real paths."""

    split: str | None
    columns: dict[str, Any]
    files: tuple[str, ...] = field(default=())


@dataclass
class ListedRow:
    """One row as other checks hand it over: split, its number there, kind, columns, and paths of its images."""

    split: str | None
    number: int
    kind: str | None
    content: dict[str, Any]
    images: list[str]

    @property
    def is_known_split(self) -> bool:
        """Whether the row stands in a split of the names that the loader knows, or in none."""
        return self.split is None or self.split in SPLITS


class Tally:
    """Findings of many rows, counted: a list of a million rows must not give a million sentences."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str, str, str]] = Counter()

    def add(self, severity: str, code: str, rule: str, what: str, fix: str = FIX, count: int = 1) -> None:
        """Count one more row (or ``count``) of which ``what`` is true."""
        self._counts[severity, code, rule, what, fix] += count

    def found(self, *codes: str) -> bool:
        """Whether anything was counted under one of the codes."""
        return any(key[1] in codes for key in self._counts)

    def report(self, inspection: Inspection) -> None:
        """Add one finding for each kind that was counted."""
        for (severity, code, rule, what, fix), count in self._counts.items():
            found = f"{count} {'case' if count == 1 else 'cases'} of {what}"
            inspection.findings.append(Finding(code, "reject" if severity == "reject" else "warn", rule, found, fix))


def closest(names: Iterable[Any], known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The known name that one of ``names`` seems to misspell."""
    for name in names:
        close = difflib.get_close_matches(str(name)[:40].lower(), known, n=1, cutoff=cutoff)
        if close:
            return close[0]
    return None


def read_rows(path: str, limits: Limits, tally: Tally) -> list[ListRow]:
    """Rows of a list.

    Raises:
        InputRefusedError: JSON, KEY, TYPE, TOO_LARGE and what ``open_regular`` raises.
    """
    if path.lower().endswith(".csv"):
        return _table(decode_text(read_bytes(path, limits), "JSON"), tally)
    content = read_json(path, "JSON", limits, allow_nonfinite=True)
    if isinstance(content, list):
        rule = "a list should be an object that names its splits"
        tally.add("warn", "KEY", rule, "a bare list without the key 'training'", "put it under 'training'")
        return _rows(None, content, tally)
    if not isinstance(content, dict):
        found = f"a {type(content).__name__} at the top"
        raise refuse("TYPE", "a datalist must be an object or a list", found, FIX)
    return _splits(content, tally)


def _splits(content: dict[str, Any], tally: Tally) -> list[ListRow]:
    rows = _by_kind(None, content, tally) if any(isinstance(content.get(kind), list) for kind in KINDS) else []
    found: list[str] = []
    for name, value in content.items():
        if name in KINDS or name in DESCRIPTIONS:
            continue
        if isinstance(value, dict) and any(isinstance(value.get(kind), list) for kind in KINDS):
            rows += _by_kind(name, value, tally)
        elif isinstance(value, list) and (name in SPLITS or (value and all(isinstance(one, dict) for one in value))):
            rows += _rows(name, value, tally)
        elif name in SPLITS:
            _not_a_split(content, value, tally)
        else:
            continue
        found.append(name)
    _check_names(content, found, tally)
    return rows


def _not_a_split(content: dict[str, Any], value: Any, tally: Tally) -> None:
    rule = "a split must be a list of rows"
    if isinstance(value, dict) and content.get("format") == "npz":
        tally.add("warn", "KEY", rule, "a split that names arrays of an npz file", "export the arrays as files first")
    else:
        tally.add("reject", "TYPE", rule, f"a split of the type {type(value).__name__}")


def _check_names(content: dict[str, Any], found: list[str], tally: Tally) -> None:
    rule = "a list must have the key 'training'"
    plain = any(isinstance(content.get(kind), list) for kind in KINDS)
    others = [name for name in content if name not in SPLITS]
    if "training" not in found and not plain:
        meant = closest((name for name in others if isinstance(content[name], (list, dict))), SPLITS, 0.5)
        hint = f"did you mean {meant!r}?" if meant else "name the splits training, validation and test"
        severity = "warn" if any(name in SPLITS for name in found) else "reject"
        tally.add(severity, "KEY", rule, "a list without it", hint)
        return
    meant = closest((name for name in found if name not in SPLITS), SPLITS, 0.5)
    if meant and meant not in found:
        tally.add(
            "warn", "KEY", "splits are named training, validation, test", "another name", f"did you mean {meant!r}?"
        )
    if "training" in found and not content["training"]:
        tally.add("reject", "EMPTY", "a split must hold rows", "an empty 'training' (0 items)")


def _by_kind(split: str | None, content: dict[str, Any], tally: Tally) -> list[ListRow]:
    rows: list[ListRow] = []
    for kind in KINDS:
        value = content.get(kind, [])
        if not isinstance(value, list):
            tally.add("reject", "TYPE", "images and volumes must be lists", f"a {type(value).__name__}")
            continue
        rows += _rows(split, value, tally)
    return rows


def _rows(split: str | None, values: list[Any], tally: Tally) -> list[ListRow]:
    rows: list[ListRow] = []
    for value in values:
        if isinstance(value, (str, dict)):
            columns = {"image": value} if isinstance(value, str) else value
            rows.append(ListRow(split, columns))
            if any(_nonfinite(one) for name, one in columns.items() if name != "box"):
                tally.add("reject", "JSON", "numbers must be finite", "a row with NaN or infinity outside its boxes")
        else:
            tally.add("reject", "TYPE", "a row must be an object or a path", f"a {type(value).__name__}")
    return rows


def _nonfinite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_nonfinite(one) for one in inside)


def _table(text: str, tally: Tally) -> list[ListRow]:
    rule, reader = "a table must be CSV with one name for each column", csv.reader(io.StringIO(text, newline=""))
    try:
        lines = [line for line in reader if any(line)]
    except csv.Error:
        raise refuse("JSON", rule, f"a line that cannot be read, near line {reader.line_num}", FIX) from None
    if not lines:
        raise refuse("EMPTY", "a table must hold rows", "0 lines", FIX)
    names, *body = lines
    if "image" not in names:
        apart = len(names) == 1 and (";" in names[0] or "\t" in names[0])
        hint = "separate the columns by commas" if apart else "name the column of the paths 'image'"
        raise refuse("KEY", "a table must have the column 'image'", f"{len(names)} columns without it", hint)
    if len(set(names)) < len(names):
        raise refuse("KEY", rule, "duplicate names of columns", FIX)
    for line in body:
        if len(line) != len(names):
            tally.add("reject", "TYPE", rule, "a row with another number of columns than the first (truncated?)")
    rows = [{name: one for name, one in zip(names, line, strict=False) if name and one} for line in body]
    return [ListRow(columns.pop("split", None), columns) for columns in rows]


def real_path(base: str, name: str) -> str:
    """Absolute path of a row's entry, links left as they are."""
    return os.path.normpath(os.path.join(base, os.path.expanduser(name)))
