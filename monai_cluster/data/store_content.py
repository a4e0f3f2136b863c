# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Digests of the files behind a row, remembered by size and times, so that a second start reads none of them.

The index holds salted digests only: neither a path nor a name nor anything that could be compared between stores.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai_cluster.keys import ClusterKeys

from .readers import file_suffix

__all__ = ["ContentIndex", "source_paths"]

PART = 16 * 2**20  # bytes read at once
SETTLED_NS = 2_000_000_000  # a file changed within its clock's tick could change again unseen: not remembered
WAIT_S = 600.0
TABLE = "CREATE TABLE IF NOT EXISTS content (path TEXT PRIMARY KEY, state TEXT, digest TEXT)"
# Headers that name the file with the pixels: without it, two volumes with one header would look the same.
DETACHED = {".mhd": r"^\s*ElementDataFile\s*=\s*(.+?)\s*$", ".nhdr": r"^\s*data ?file\s*:\s*(.+?)\s*$"}


def source_paths(row: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Which entries of a row name existing files or folders: ``{key: paths}``.

    The entry ``image`` always does; any other text counts if it is a ``Path`` or has a separator in it, so that a word
    like ``"CT"`` is never taken for a folder that happens to be called so.
    """
    found = {}
    for key, value in row.items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        if parts and all(_names_a_file(key, part) for part in parts):
            found[key] = [Path(part) for part in parts]
    return found


def _names_a_file(key: str, value: Any) -> bool:
    if not isinstance(value, (str, Path)) or not str(value):
        return False
    likely = key == ClusterKeys.IMAGE or isinstance(value, Path) or os.sep in value
    try:
        return likely and Path(value).exists()
    except (OSError, ValueError):
        return False


class ContentIndex:
    """Salted SHA-256 of files and folders, remembered in a small SQLite file.

    A remembered digest counts as long as path, size, modification and change time and inode are as they were.

    Args:
        path: of the index; made at its first use, readable by its owner only.
        salt: secret of the store.
    """

    def __init__(self, path: Path, salt: bytes) -> None:
        self.path, self.salt = path, salt

    def digest(self, source: Path) -> str:
        """Digest of a file, or of all files directly in a folder in the order of their names.

        Raises:
            OSError: if a file cannot be read.
            ValueError: for a header whose pixels lie in several files.
        """
        return self._combined(source, [self._file(file) for file in _files(source)])

    def known(self, source: Path) -> str | None:
        """The remembered digest, or None; reads no image."""
        try:
            remembered = [self._recall(file, file.stat()) for file in _files(source)]
        except (OSError, ValueError):
            return None
        digests = [digest for digest in remembered if digest is not None]
        return self._combined(source, digests) if len(digests) == len(remembered) else None

    def _combined(self, source: Path, digests: list[str]) -> str:
        kind = "folder" if source.is_dir() else file_suffix(source)  # readers go by the suffix
        return self._salted("\n".join([kind, *digests]))

    def _salted(self, text: str) -> str:
        return hashlib.sha256(self.salt + text.encode("utf-8", "surrogateescape")).hexdigest()

    def _file(self, file: Path) -> str:
        before = file.stat()
        digest = self._recall(file, before)
        if digest is not None:
            return digest
        hashed = hashlib.sha256(self.salt)
        with file.open("rb") as stream:
            while part := stream.read(PART):
                hashed.update(part)
        digest = hashed.hexdigest()
        after = file.stat()
        if _state(before) == _state(after) and time.time_ns() - after.st_mtime_ns > SETTLED_NS:
            self._remember(file, after, digest)
        return digest

    def _recall(self, file: Path, status: os.stat_result) -> str | None:
        if not self.path.exists():
            return None
        asked = (self._name(file), _state(status))
        try:
            with self._connection() as connection:
                rows = connection.execute("SELECT digest FROM content WHERE path = ? AND state = ?", asked).fetchall()
        except sqlite3.OperationalError:  # busy for too long: hash the file
            return None
        except sqlite3.DatabaseError:  # damaged: it only remembers, so it may start anew
            self.path.unlink(missing_ok=True)
            return None
        return str(rows[0][0]) if rows else None

    def _remember(self, file: Path, status: os.stat_result, digest: str) -> None:
        with contextlib.suppress(sqlite3.Error), self._connection() as connection:  # only a later start is slower
            connection.execute(
                "INSERT OR REPLACE INTO content VALUES (?, ?, ?)", (self._name(file), _state(status), digest)
            )

    def _name(self, file: Path) -> str:
        return self._salted(os.path.abspath(file))

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=WAIT_S)
        try:
            with connection:
                connection.execute(TABLE)
                yield connection
        finally:
            connection.close()


def _state(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        return sorted(file for file in source.iterdir() if file.is_file() and file.name[0] != ".")
    pattern = DETACHED.get(file_suffix(source))
    if pattern is None:
        return [source]
    header = source.read_bytes()[: 2**16].decode("latin-1")
    match = re.search(pattern, header, re.MULTILINE | re.IGNORECASE)
    if match is None or match[1].upper() == "LOCAL":
        return [source]
    pixels = source.parent / match[1]
    if not pixels.is_file():
        raise ValueError(
            "a header must name one file with its pixels to go into the slice store, got several or none: "
            "convert the volume to one file (.mha, .nrrd or .nii.gz)."
        )
    return [source, pixels]
