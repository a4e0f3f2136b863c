# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The values behind a text header: in the same file or in one beside it, raw or compressed, read in parts."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO

from .byte_stream import refuse

__all__ = ["Payload", "data_file_path"]

BLOCK = 1 << 18
WINDOW = {"gzip": 31, "zlib": 15}  # zlib's number for which of the two wrappers it expects
GZIP = b"\x1f\x8b"
RULE, FIX = "compressed voxels must be whole", "copy the file again and compare checksums"
DRIVE = re.compile(r"^[A-Za-z]:")
PATTERN = re.compile(r"%\d*[diu]")


class Payload:
    """The bytes of the voxels, decoded, in order and in parts.

    Args:
        file: open at the first byte of the payload.
        encoding: ``raw``, ``gzip`` or ``zlib``.
    """

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file, self._encoding, self._start = file, encoding, file.tell()
        self._decoder = zlib.decompressobj(WINDOW[encoding]) if encoding in WINDOW else None
        self._pending = b""

    def read(self, count: int) -> bytes:
        """Up to ``count`` decoded bytes; fewer only at the end.

        Raises:
            InputRefusedError: TRUNCATED or CORRUPT for a broken compressed stream.
        """
        if self._decoder is None:
            return self._file.read(count)
        parts: list[bytes] = []
        try:
            while count > 0 and not self._ended():
                fed = self._pending or self._file.read(BLOCK)
                part = self._decoder.decompress(fed, count)
                self._pending = self._decoder.unconsumed_tail
                if not fed and not part and not self._decoder.eof:
                    found = f"a truncated {self._encoding} stream"
                    raise refuse("TRUNCATED", RULE, found, FIX)
                parts.append(part)
                count -= len(part)
        except zlib.error as error:
            sum_wrong = "check" in str(error)
            found = "a checksum (CRC) that does not match" if sum_wrong else "a corrupt stream that cannot be decoded"
            raise refuse("CORRUPT", RULE, f"{self._encoding}: {found}", FIX) from None
        return b"".join(parts)

    def _ended(self) -> bool:
        """Whether the stream is over; another member of a gzip stream is begun."""
        assert self._decoder is not None
        if not self._decoder.eof:
            return False
        rest = self._decoder.unused_data
        if self._encoding != "gzip":
            return True
        rest += self._file.read(max(0, 2 - len(rest)))
        if rest[:2] == GZIP:
            self._decoder, self._pending = zlib.decompressobj(WINDOW["gzip"]), rest
            return False
        self._file.seek(self._file.tell() - len(rest) + len(self._decoder.unused_data))
        return True

    def compressed_size(self) -> int:
        """Stored bytes that the compressed stream took, once it is read to its end."""
        return self._file.tell() - len(self._unused()) - self._start

    def rest(self, limit: int) -> int:
        """Number of stored bytes after a compressed stream, up to about ``limit``."""
        total = len(self._unused())
        while total <= limit and (part := len(self._file.read(BLOCK))):
            total += part
        return total

    def _unused(self) -> bytes:
        return self._decoder.unused_data if self._decoder is not None else b""


def data_file_path(header: str | os.PathLike[str], name: str) -> Path:
    """Path of the data file that a text header names.

    Raises:
        InputRefusedError: PATH for a file outside the header's own folder, absolute paths and links that lead out
            included, HEADER for lists and patterns of files.
    """
    if name.split()[:1] == ["LIST"] or PATTERN.search(name) or not name:
        found, fix = "a list or pattern of data files", "save the volume as one file"
        raise refuse("HEADER", "a header must name one data file", found, fix)
    rule = "a header's data file must lie in the header's own folder"
    fix = "do not open it: any readable file would become voxels; save the volume as one file"
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\", "~")) or DRIVE.match(name) or "://" in name:
        raise refuse("PATH", rule, "an absolute path", fix)
    if ".." in parts or "\\" in name or not name.isprintable():
        raise refuse("PATH", rule, "a path that leaves the folder, or is none", fix)
    folder = Path(os.path.realpath(Path(os.fsdecode(header)).parent))
    target = folder / name
    real = Path(os.path.realpath(target))
    if not real.is_relative_to(folder):
        raise refuse("PATH", rule, "a link to a file outside that folder", fix)
    if real == Path(os.path.realpath(os.fsdecode(header))):
        raise refuse("HEADER", "a header's data file must be another file", "the header itself", "save it again")
    return target
