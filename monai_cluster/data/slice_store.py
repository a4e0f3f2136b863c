# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Preprocessed samples on disk, decoded and transformed once, from which single slices are read without the rest.

A sample's key is the salted SHA-256 of its files' contents, of the row's other columns and of the preprocessing with
its code and libraries: a change of any of them makes another entry, a renamed or copied file does not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai_cluster.keys import ClusterKeys

from .store_content import ContentIndex, source_paths
from .store_description import describe
from .store_entry import BrokenEntryError, StoredEntry, blosc2, entry_files, sync_folder, write_files
from .store_folder import claim, folder_bytes, recount, remove, temporary_name, writing
from .store_values import Hidden, encode_sample

__all__ = ["HIDDEN_KEYS", "OldEntry", "SliceStore", "StoreFullError"]

HIDDEN_KEYS = (ClusterKeys.SAMPLE_INDEX, ClusterKeys.SUBJECT, ClusterKeys.GROUP)  # say nothing about the pixels
MOST_OPEN = 4096  # entries whose JSON a process keeps
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Row = Mapping[str, Any]


class StoreFullError(OSError):
    """No room for an entry, on the disk or within the store's own limit."""


class OldEntry(NamedTuple):
    """An entry that could be removed."""

    key: str
    num_bytes: int
    last_used: float  # seconds since 1970


class SliceStore:
    """A folder of preprocessed samples that any number of processes read and write at once.

    The folder and everything in it can be read by its owner only. Names in it tell nothing about patients, files or
    contents; the stored samples themselves are as confidential as the images.

    Args:
        folder: made where it does not exist; must otherwise be empty or a slice store.
        max_bytes: limit for all entries together; None lets them fill the disk.
        compressed: write new entries with Blosc2, half as large and slower to read; needs the library ``blosc2``.

    Raises:
        ValueError: for a limit below 1, or a folder with other contents.
        ImportError: for a compressed store without ``blosc2``.
    """

    def __init__(self, folder: str | Path, max_bytes: int | None = None, compressed: bool = False) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}; leave it out for no limit of its own")
        if compressed:
            blosc2()
        self.folder, self.max_bytes, self.compressed = Path(os.path.abspath(folder)), max_bytes, compressed
        self.entries, self.salt = claim(self.folder)
        self.content = ContentIndex(self.folder / "content.sqlite", self.salt)
        self._open: dict[str, StoredEntry] = {}
        self._verified: set[str] = set()
        recount(self.folder)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}, "_verified": set()}

    def key(self, row: Row, transform: str, known: bool = False) -> str | None:
        """Name of a row's entry.

        Args:
            row: of a datalist.
            transform: text from :func:`describe_transform`.
            known: give None instead of reading a file whose digest is not remembered.

        Raises:
            DescriptionError: for a column without a stable description.
        """
        sources = source_paths(row)
        parts: list[Any] = [transform]
        for name, value in row.items():
            if name in HIDDEN_KEYS:
                parts.append(name)
            elif name in sources:
                digests = [(self.content.known if known else self.content.digest)(path) for path in sources[name]]
                if None in digests:
                    return None
                # A name without a folder could be a word that the preprocessing reads: both count.
                words = describe([str(path) for path in sources[name] if len(path.parts) == 1])
                parts.append([name, isinstance(value, (list, tuple)), digests, words])
            else:
                parts.append([name, describe(value, f"column {name!r}")])
        return hashlib.sha256(self.salt + json.dumps(parts).encode()).hexdigest()

    def get(self, key: str, verify: bool = True) -> StoredEntry | None:
        """An entry, or None where there is none; its checksum is compared once per process.

        Args:
            key: see :meth:`key`.
            verify: off trusts the arrays, where another process of this run has verified them.

        Raises:
            BrokenEntryError: if the entry was damaged.
        """
        found, verify = self._open.get(key), verify and key not in self._verified
        if found is None or verify:
            try:
                found = StoredEntry(self.entries / key, key, verify)
            except FileNotFoundError:
                return None
            with contextlib.suppress(OSError):
                os.utime(self.entries / key)  # for prune
            if len(self._open) >= MOST_OPEN:
                self._open.clear()
            self._open[key] = found
        if verify:
            self._verified.add(key)
        return found

    def forget(self, key: str) -> None:
        """Open the entry anew at its next use."""
        self._open.pop(key, None)
        self._verified.discard(key)

    def make(self, key: str, row: Row, load: Callable[[Row, Row], Row]) -> None:
        """Preprocess a row and store the sample; an intact entry that another process made meanwhile stays.

        Args:
            key: see :meth:`key`.
            row: of a datalist.
            load: preprocessing, called with the row without what the key does not speak of, and with the row.

        Raises:
            StoreFullError: with the bytes needed and available; nothing is left behind.
            UnstorableError: for a sample that cannot be given back exactly.
        """
        shown = {name: Hidden(name) if name in HIDDEN_KEYS else value for name, value in row.items()}
        items, arrays = encode_sample(load(shown, row), shown, source_paths(row))
        files = entry_files(key, items, arrays, self.compressed)
        needed = sum(len(part) for _, parts in files for part in parts)
        with writing(self.folder) as database:
            if self._intact(key):
                return
            available = self._available(database, key)
            if needed > available:
                raise self._full(needed, available)
            temporary = temporary_name(self.entries)
            try:
                write_files(temporary, files)
                self._replace(key, temporary)
            except OSError as error:
                if error.errno in NO_SPACE:
                    raise self._full(needed, self._available(database, key)) from error
                raise
            finally:
                remove(temporary)
            with contextlib.suppress(sqlite3.Error):  # counted again at the next start
                database.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (key, needed))

    def num_bytes(self) -> int:
        """Bytes of all entries."""
        return sum(entry.num_bytes for entry in self.prune())

    def prune(self, keep: Collection[str] = (), free_bytes: int | None = None, remove: bool = False) -> list[OldEntry]:
        """List entries, least recently used first, and remove them only when told to.

        Args:
            keep: keys to leave out, for example ``dataset.stored.keys``.
            free_bytes: stop when the listed entries have so many bytes together.
            remove: delete the listed entries.
        """
        found = []
        for entry in os.scandir(self.entries):
            if not entry.name.startswith(".") and entry.name not in keep:
                with contextlib.suppress(FileNotFoundError):
                    found.append(OldEntry(entry.name, folder_bytes(Path(entry.path)), entry.stat().st_mtime))
        found.sort(key=lambda entry: entry.last_used)
        chosen, total = [], 0
        for old in found:
            if free_bytes is not None and total >= free_bytes:
                break
            chosen.append(old)
            total += old.num_bytes
        if remove:
            with writing(self.folder) as database:
                for old in chosen:
                    self.forget(old.key)
                    self._replace(old.key, None)
                    database.execute("DELETE FROM entries WHERE key = ?", (old.key,))
        return chosen

    def _intact(self, key: str) -> bool:
        try:
            StoredEntry(self.entries / key, key)
        except (FileNotFoundError, BrokenEntryError):
            return False
        return True

    def _replace(self, key: str, new: Path | None) -> None:
        """Put a written folder in an entry's place. Between the two steps the entry is missing, never half there."""
        place = self.entries / key
        if place.exists():
            old = temporary_name(self.entries)
            place.rename(old)
            remove(old)
        if new is not None:
            new.rename(place)
        sync_folder(self.entries)

    def _available(self, database: sqlite3.Connection, key: str) -> int:
        free = shutil.disk_usage(self.folder).free
        if self.max_bytes is None:
            return free
        (used,) = database.execute("SELECT TOTAL(bytes) FROM entries WHERE key != ?", (key,)).fetchone()
        return max(0, min(free, self.max_bytes - int(used)))

    def _full(self, needed: int, available: int) -> StoreFullError:
        limit = "" if self.max_bytes is None else f" (max_bytes is {self.max_bytes})"
        return StoreFullError(
            f"the slice store needs {needed} bytes for the next sample, but {available} are available{limit}: raise "
            "the limit or free the disk, remove entries that are no longer used with prune(remove=True), or leave the "
            "store out."
        )
