# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Walk a folder: every file once, links never in circles, nothing opened."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

from .findings import Finding

__all__ = ["FileEntry", "Walk", "entry_of", "file_suffix", "is_hidden_name", "walk_files"]

State = Literal["file", "special", "link"]
ARCHIVE_LEFTOVERS = ("__MACOSX",)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One name in a folder that is no folder.

    Attributes:
        path: absolute. It identifies a patient more often than not: keep it out of reports.
        size, mtime_ns, inode: of the file a link leads to; 0 for a broken link.
        state: ``file``, ``special`` (pipe, socket, device) or ``link`` (one that leads nowhere or in a circle).
        outside: whether a link leads out of the folder that is walked.
    """

    path: str = field(repr=False)
    size: int
    mtime_ns: int
    inode: int
    state: State = "file"
    outside: bool = False


@dataclass
class Walk:
    """What a walk met beside files.

    Attributes:
        empty_folders: folders that hold nothing.
        skipped: files that were passed over, by reason.
        skipped_paths: their paths with the reason; keep them out of reports.
        findings: about folders that could not be listed, and links.
    """

    empty_folders: list[str] = field(default_factory=list, repr=False)
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_paths: list[tuple[str, str]] = field(default_factory=list, repr=False)
    findings: list[Finding] = field(default_factory=list)

    def skip(self, path: str, reason: str) -> None:
        """Note a file that is passed over."""
        self.skipped[reason] += 1
        self.skipped_paths.append((path, reason))


def file_suffix(path: str) -> str:
    """Lower-case suffix with its dot, ``.nii.gz`` as one."""
    name = os.path.basename(path).lower()
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]


def is_hidden_name(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or left behind by an archive."""
    return name.startswith(".") or name in ARCHIVE_LEFTOVERS


def entry_of(path: str, root: str | None = None) -> FileEntry:
    """The entry of one path; with ``root`` (a real path) a link that leaves it is marked."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return FileEntry(path, 0, 0, 0, "link" if _is_link(path) else "special")
    kind: State = "file" if stat.S_ISREG(found.st_mode) else "special"
    outside = root is not None and _is_link(path) and not _inside(os.path.realpath(path), root)
    return FileEntry(path, found.st_size, found.st_mtime_ns, found.st_ino, kind, outside)


def walk_files(root: str, walk: Walk, leave_out: Collection[str] = ()) -> Iterator[FileEntry]:
    """Yield every file below a folder, folder by folder in the order of their names.

    Links to files are followed. Links to folders are followed once everything else is seen, and only into folders that
    were not walked yet, so that no file comes twice and no circle is entered.

    Args:
        root: the folder.
        walk: is filled with what was met beside files.
        leave_out: real paths of folders that are not entered and not counted.

    Raises:
        NotADirectoryError, PermissionError, FileNotFoundError: if the root itself cannot be listed.
    """
    root = os.path.realpath(root)
    os.scandir(root).close()
    seen: set[tuple[int, int]] = set()
    folders: list[tuple[str, bool]] = [(root, False)]
    links: list[str] = []
    counts: Counter[str] = Counter()
    while folders or links:
        folder, hidden = folders.pop() if folders else (links.pop(0), False)
        identity = _identity(folder)
        if identity in seen:
            counts["circle"] += 1
            continue
        seen.add(identity)
        if os.path.realpath(folder) in leave_out:
            continue
        if not _inside(os.path.realpath(folder), root):
            counts["outside"] += 1
        try:
            entries = _listed(folder)
        except OSError as error:
            counts["denied" if isinstance(error, PermissionError) else "unlisted"] += 1
            continue
        if not entries:
            walk.empty_folders.append(folder)
        yield from _files_of(entries, root, hidden, walk)
        below = [one for one in entries if one.is_dir(follow_symlinks=False)]
        folders += [(one.path, hidden or is_hidden_name(one.name)) for one in reversed(below)]
        links += [one.path for one in entries if not hidden and _is_linked_folder(one) and not is_hidden_name(one.name)]
    walk.findings += _findings(counts)


def _listed(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda one: os.fsencode(one.name))


def _files_of(entries: list[os.DirEntry[str]], root: str, hidden: bool, walk: Walk) -> Iterator[FileEntry]:
    for one in entries:
        if one.is_dir(follow_symlinks=False) or _is_linked_folder(one):
            continue
        if hidden or is_hidden_name(one.name):
            walk.skip(one.path, "hidden")
            continue
        if one.is_symlink():
            yield entry_of(one.path, root)
            continue
        try:
            found = one.stat(follow_symlinks=False)
        except OSError:  # removed between listing and looking
            yield FileEntry(one.path, 0, 0, 0, "special")
            continue
        kind: State = "file" if stat.S_ISREG(found.st_mode) else "special"
        yield FileEntry(one.path, found.st_size, found.st_mtime_ns, found.st_ino, kind)


def _is_linked_folder(one: os.DirEntry[str]) -> bool:
    try:
        return one.is_symlink() and one.is_dir()
    except OSError:  # a circle of links
        return False


def _is_link(path: str) -> bool:
    try:
        return os.path.islink(path)
    except ValueError:  # a null character in a listed path
        return False


def _identity(folder: str) -> tuple[int, int]:
    try:
        found = os.stat(folder)
    except OSError as error:
        return (-1, -(error.errno or errno.EIO) - hash(folder))  # cannot be listed either, which is noted then
    return found.st_dev, found.st_ino


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _findings(counts: Counter[str]) -> list[Finding]:
    rule = "every folder of the source must be readable"
    found = []
    for name, code, what in (("denied", "PERMISSION", "permission denied"), ("unlisted", "UNREADABLE", "not readable")):
        if counts[name]:
            told = f"{counts[name]} folders that could not be listed ({what}): what they hold was not checked"
            found.append(Finding(code, "reject", rule, told, "give the right to read them, or leave them out"))
    if counts["circle"]:
        told = f"{counts['circle']} links to folders that were walked already (a circle, or the same folder twice)"
        found.append(Finding("LINK", "warn", "links should not lead back", told, "nothing: they were not followed"))
    if counts["outside"]:
        told = f"{counts['outside']} folders outside the source, reached by links"
        found.append(Finding("PATH", "warn", "data should lie inside the source", told, "check that they are meant"))
    return found
