# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Zip files, looked at without being unpacked: where members land, how large they become, whether they are whole."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterable

from .byte_stream import open_regular, refuse
from .findings import Inspection
from .guarding import guarded
from .limits import Limits

__all__ = ["check_members", "inspect_archive", "open_zip", "read_members"]

MAX_MEMBERS = 100_000
MAX_RATIO = 200  # deflate reaches 1000 on zeros; images, text and weights stay below 50
SMALL_BYTES = 16 * 2**20  # below this nobody minds the ratio
PART = 1 << 20
FIX = "do not unpack it; ask for another archive"


def inspect_archive(path: str | os.PathLike[str], limits: Limits | None = None) -> Inspection:
    """Judge a zip file before anybody unpacks it. Never raises for what the file holds.

    Findings: PATH (members outside the folder, absolute, links), DUPLICATE, TOO_LARGE (bombs), CORRUPT (checksums,
    encryption), TRUNCATED, EMPTY, NOT_AN_IMAGE (no zip) and those of ``open_regular``.
    """
    limits, inspection = limits or Limits(), Inspection()
    with guarded(inspection), open_zip(path) as archive:
        inspection.facts.kind = "archive"
        inspection.facts.num_bytes = os.path.getsize(path)
        members = archive.infolist()
        inspection.facts.num_files = len(members)
        check_members(members, inspection.facts.num_bytes, limits, inspection)
        if inspection.verdict != "reject":
            read_members(archive, inspection)
    return inspection


def open_zip(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    """A zip file with its table of contents read.

    Raises:
        InputRefusedError: TRUNCATED where the table at the end is missing, CORRUPT where it is garbled, TRAILING for
            bytes in front of the archive, and what ``open_regular`` raises.
    """
    rule, fix = "a zip file must be whole", "copy it again and compare checksums"
    file = open_regular(path)
    head = file.read(4)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, OSError):
        file.close()
        if head != b"PK\x03\x04":
            raise refuse("CONTAINER", rule, "a file that does not begin as a zip archive", "export it again") from None
        found = "an archive without a readable central directory at its end (truncated or corrupt)"
        raise refuse("TRUNCATED", rule, found, fix) from None
    if head[:2] != b"PK":
        archive.close()
        found = "other data in front of the archive"
        raise refuse("CONTAINER", "a zip file must begin as one", found, FIX)
    return archive


def check_members(members: Iterable[zipfile.ZipInfo], size: int, limits: Limits, inspection: Inspection) -> None:
    """Add findings about names, types and declared sizes of members; the archive has ``size`` bytes."""
    members = list(members)
    files = [one for one in members if not one.is_dir()]
    if not files:
        inspection.reject("EMPTY", "an archive must hold files", "0 files", "export it again")
    _check_names(members, inspection)
    if any(one.flag_bits & 0x1 for one in members):
        rule = "members must be readable without a password"
        inspection.reject("CORRUPT", rule, "encrypted members", "ask for the archive without encryption")
    _check_sizes(files, size, limits, inspection)


def _check_names(members: list[zipfile.ZipInfo], inspection: Inspection) -> None:
    rule = "members must stay inside the folder they are unpacked to"
    names = [one.filename.replace("\\", "/") for one in members]
    absolute = sum(one.startswith("/") or one[1:2] == ":" for one in names)
    outside = sum(".." in one.split("/") for one in names)
    # zipfile cuts a name at its first null; what was behind it stays in orig_filename
    null = sum("\0" in one.orig_filename for one in members)
    links = sum(_is_special(one) for one in members)
    for count, what in (
        (absolute, "with an absolute path"),
        (outside, "outside the folder (unsafe path with ..)"),
        (null, "with a null character in the path"),
        (links, "that are symlinks or special files"),
    ):
        if count:
            inspection.reject("PATH", rule, f"{count} members {what}", FIX)
    folded = [os.path.normpath(one).casefold() for one in names]
    repeated = len(folded) - len(set(folded))
    if repeated:
        found = f"{repeated} duplicate members (up to upper and lower case)"
        inspection.reject("DUPLICATE", "a member must stand once in an archive", found, FIX)
    parents = {folder for one in set(folded) for folder in _parents(one)}
    files = {one for one, member in zip(folded, members, strict=True) if not member.is_dir()}
    if files & parents:
        found = f"{len(files & parents)} names that are a file and a folder at once"
        inspection.reject("PATH", rule, found, FIX)


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, min(len(parts), 64))]


def _is_special(member: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(member.external_attr >> 16)
    return kind not in (0, stat.S_IFREG, stat.S_IFDIR)


def _check_sizes(files: list[zipfile.ZipInfo], size: int, limits: Limits, inspection: Inspection) -> None:
    rule = "an archive must be within the limits"
    if len(files) > MAX_MEMBERS:
        inspection.reject("TOO_LARGE", rule, f"{len(files)} members, the limit is {MAX_MEMBERS}", FIX)
    total = sum(one.file_size for one in files)
    stored = sum(one.compress_size for one in files)
    if stored > size:
        found = f"members of {stored} stored bytes in a file of {size} (overlapping: a decompression bomb)"
        inspection.reject("TOO_LARGE", rule, found, FIX)
    elif total > max(limits.max_decoded_bytes, stored):  # what is not compressed is no larger than the file itself
        found = f"{total} declared bytes, the limit of the size is {limits.max_decoded_bytes}"
        inspection.reject("TOO_LARGE", rule, found, "raise the limit if the size is meant")
    elif total > SMALL_BYTES and total > MAX_RATIO * max(stored, 1):
        found = f"{total} declared bytes from {stored} compressed ones (a decompression bomb?)"
        inspection.reject("TOO_LARGE", rule, found, FIX)


def read_members(archive: zipfile.ZipFile, inspection: Inspection) -> None:
    """Read every member to its end in parts: checksums are compared, and no more comes out than was declared."""
    rule, fix = "members must be whole", "copy the archive again and compare checksums"
    for member in archive.infolist():
        count = 0
        try:
            with archive.open(member) as file:
                while part := file.read(PART):
                    count += len(part)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError):
            # ZipExtFile ends at the declared size, so a real size above it shows as a wrong checksum
            found = f"a checksum (CRC) or stream that does not match in a member of {member.file_size} bytes (corrupt)"
            inspection.reject("CORRUPT", rule, found, fix)
            return
        except (NotImplementedError, RuntimeError):
            inspection.reject("CORRUPT", rule, "a method of compression that is unknown (corrupt?)", fix)
            return
        if count != member.file_size:
            found = f"{count} bytes of a member where {member.file_size} are declared (truncated)"
            inspection.reject("TRUNCATED", rule, found, fix)
            return
