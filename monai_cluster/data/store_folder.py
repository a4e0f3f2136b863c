# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The slice store's folder: claimed with care, for its owner only, its entries counted, one writer at a time."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

__all__ = ["TEMPORARY", "claim", "folder_bytes", "recount", "remove", "temporary_name", "writing"]

MARK, SALT, ENTRIES = "slice_store.json", "salt", "entries"
TEMPORARY = ".tmp-"
SALT_BYTES = 32
WAIT_S = 3600.0  # for another process that writes a large entry to a slow disk


def claim(folder: Path) -> tuple[Path, bytes]:
    """Make the folder, or check that it is a slice store before changing anything in it.

    Returns:
        folder of the entries, and the store's secret.

    Raises:
        ValueError: for a folder with other contents, or a damaged secret.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark, entries = folder / MARK, folder / ENTRIES
    if not mark.exists():
        known = (SALT, ENTRIES, MARK)  # another process may be at this very place
        if any(entry.name not in known and not entry.name.startswith(TEMPORARY) for entry in os.scandir(folder)):
            raise ValueError(
                f"a slice store's folder must be new, empty or a slice store, but {folder.name!r} holds other files: "
                "name another folder."
            )
    folder.chmod(0o700)
    entries.mkdir(mode=0o700, exist_ok=True)
    _write_once(folder / SALT, secrets.token_bytes(SALT_BYTES))
    _write_once(mark, json.dumps({"slice_store": 1}).encode())
    salt = (folder / SALT).read_bytes()
    if len(salt) != SALT_BYTES:
        raise ValueError("the slice store's salt is damaged, and with it all its names: remove the store's folder.")
    return entries, salt


def _write_once(path: Path, content: bytes) -> None:
    """Write a small file for its owner only, unless it is there; nobody sees a part of it."""
    if path.exists():
        return
    temporary = temporary_name(path.parent)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)  # unlike a renaming, this does not replace what another process has written
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            temporary.rename(path)
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[sqlite3.Connection]:
    """Wait until no other process writes; the lock goes with its process, whatever ends it.

    Yields:
        the count of entries: a table ``entries`` of ``key`` and ``bytes``.
    """
    path = folder / "entries.sqlite"
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
    try:
        database.execute("BEGIN IMMEDIATE")
        yield database
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk: counted again at the next start
            database.execute("COMMIT")
    finally:
        database.close()


def recount(folder: Path) -> None:
    """Count the entries, and clear away what a killed process left: nobody else is writing now."""
    try:
        with writing(folder) as database:
            database.execute("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, bytes INTEGER)")
            database.execute("DELETE FROM entries")
            for entry in list(os.scandir(folder / ENTRIES)):
                path = Path(entry.path)
                if entry.name.startswith(TEMPORARY):
                    remove(path)
                else:
                    database.execute("INSERT INTO entries VALUES (?, ?)", (entry.name, folder_bytes(path)))
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # damaged: it only counts, so it may start anew
        (folder / "entries.sqlite").unlink(missing_ok=True)
        recount(folder)


def temporary_name(folder: Path) -> Path:
    """A new name in a folder."""
    return folder / f"{TEMPORARY}{secrets.token_hex(8)}"


def remove(path: Path) -> None:
    """Delete a folder or a file, as far as that goes."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def folder_bytes(path: Path) -> int:
    """Bytes of the files in a folder, or of a file; 0 where there is nothing."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(path)) if path.is_dir() else path.stat().st_size
    except OSError:
        return 0
