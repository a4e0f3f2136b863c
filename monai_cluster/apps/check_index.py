# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What a check remembers, so that an unchanged file is read once: results by salted name, never a path."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_cluster.apps.check_output import unique_id
from monai_cluster.integrity import Finding

__all__ = ["CheckIndex", "Stored"]

TABLES = """
CREATE TABLE IF NOT EXISTS items (
    name TEXT PRIMARY KEY, id TEXT UNIQUE, signature TEXT, condition TEXT, place INTEGER,
    facts TEXT, findings TEXT, sides TEXT, grid BLOB, thumbnail BLOB);
CREATE TABLE IF NOT EXISTS groups (folder TEXT PRIMARY KEY, signature TEXT, condition TEXT, answer TEXT);
CREATE TABLE IF NOT EXISTS splits (subject TEXT PRIMARY KEY, settings TEXT, split TEXT);
CREATE INDEX IF NOT EXISTS places ON items (place);
"""
COMMIT_SECONDS = 1.0  # at most so much work is lost when the process is killed


@dataclass(frozen=True)
class Stored:
    """The result of one item, as far as its own files go."""

    place: int
    id: str
    facts: dict[str, Any]
    findings: list[Finding]
    sides: tuple[int, ...] | None


class CheckIndex:
    """The index of one check; only one process may have it open.

    Args:
        path: of the SQLite file.

    Raises:
        RuntimeError: if another check has it open, or the file is broken.
    """

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._base = sqlite3.connect(path, timeout=2.0)
        try:
            self._base.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.executescript(TABLES)
            rows = self._base.execute("SELECT name, id, signature, condition FROM items").fetchall()
        except sqlite3.DatabaseError as error:
            self._base.close()
            busy = "another check works in this folder: wait for it" if "locked" in str(error) else "delete the folder"
            raise RuntimeError(f"{path.name} cannot be used ({error}): {busy}") from error
        self._known = {name: (key, signature, condition) for name, key, signature, condition in rows}
        self._ids = {key: name for name, (key, _, _) in self._known.items()}
        self._committed = time.monotonic()

    def close(self) -> None:
        """Write what is left."""
        self._base.commit()
        self._base.close()

    def is_current(self, name: str, signature: str, condition: str) -> bool:
        """Whether the result of these files is known; ``condition`` matters to those that depended on limits."""
        found = self._known.get(name)
        return found is not None and found[1] == signature and found[2] in ("", condition)

    def knows(self, name: str) -> bool:
        """Whether there is a result of an item of this name, current or not."""
        return name in self._known

    def save(self, name: str, signature: str, condition: str, answer: dict[str, Any]) -> None:
        """Keep the result of one item.

        Args:
            name: salted.
            signature: of its files and of the check.
            condition: empty, or what the result depended on beside them.
            answer: ``facts``, ``findings`` and pictures as workers give them.
        """
        if name in self._known:
            key = self._known[name][0]
        else:
            key = unique_id("item", name, self._ids.__contains__)
        self._known[name] = (key, signature, condition)
        self._ids[key] = name
        pictures = [base64.b64decode(answer[one]) if one in answer else None for one in ("grid", "thumbnail")]
        texts = [json.dumps(answer[one]) for one in ("facts", "findings")] + [json.dumps(answer.get("sides"))]
        row = (name, key, signature, condition, None, *texts, *pictures)
        self._base.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._commit_now_and_then()

    def arrange(self, names: Iterable[str]) -> int:
        """Number the items of this run in order, and forget the others; returns how many those were."""
        self._base.execute("UPDATE items SET place = NULL")
        self._base.executemany("UPDATE items SET place = ? WHERE name = ?", enumerate(names))
        removed = self._base.execute("DELETE FROM items WHERE place IS NULL").rowcount
        self._base.commit()
        return removed

    def results(self) -> Iterator[Stored]:
        """All results in the order of :meth:`arrange`, one at a time."""
        query = "SELECT place, id, facts, findings, sides FROM items ORDER BY place"
        for place, key, facts, findings, sides in self._base.execute(query):
            found = [Finding(**one) for one in json.loads(findings)]
            shape = json.loads(sides)
            yield Stored(place, key, json.loads(facts), found, None if shape is None else tuple(shape))

    def grids(self, places: Iterable[int]) -> dict[int, np.ndarray]:
        """The small grey squares of some items, flat uint8."""
        found: dict[int, np.ndarray] = {}
        for place in places:
            row = self._base.execute("SELECT grid FROM items WHERE place = ?", (int(place),)).fetchone()
            if row is not None and row[0] is not None:
                found[int(place)] = np.frombuffer(row[0], dtype=np.uint8)
        return found

    def thumbnail(self, place: int) -> bytes | None:
        """PNG of an item, or None where there is none."""
        row = self._base.execute("SELECT thumbnail FROM items WHERE place = ?", (place,)).fetchone()
        return None if row is None else row[0]

    def drop_thumbnails(self) -> None:
        """Forget all pictures but the small squares that duplicates are found with."""
        self._base.execute("UPDATE items SET thumbnail = NULL")
        self._base.commit()

    def group(self, folder: str, signature: str, condition: str) -> dict[str, Any] | None:
        """How the DICOM files of a folder were grouped, if they are unchanged."""
        query = "SELECT signature, condition, answer FROM groups WHERE folder = ?"
        row = self._base.execute(query, (folder,)).fetchone()
        return json.loads(row[2]) if row and row[0] == signature and row[1] in ("", condition) else None

    def save_group(self, folder: str, signature: str, condition: str, answer: dict[str, Any]) -> None:
        """Keep how the DICOM files of a folder were grouped."""
        row = (folder, signature, condition, json.dumps(answer))
        self._base.execute("INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?)", row)
        self._commit_now_and_then()

    def splits(self, settings: str) -> dict[str, str]:
        """Splits that patients were given before, with the same settings."""
        query = "SELECT subject, split FROM splits WHERE settings = ?"
        return dict(self._base.execute(query, (settings,)).fetchall())

    def save_splits(self, settings: str, splits: dict[str, str]) -> None:
        """Keep the splits of patients, so that those who join later move nobody."""
        self._base.execute("DELETE FROM splits WHERE settings != ?", (settings,))
        rows = [(subject, settings, split) for subject, split in splits.items()]
        self._base.executemany("INSERT OR REPLACE INTO splits VALUES (?, ?, ?)", rows)
        self._base.commit()

    def _commit_now_and_then(self) -> None:
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self._base.commit()
            self._committed = time.monotonic()
