# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Open a file as bytes without trusting it: pipes never block, gzip is read to its checksum, nothing is read whole."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import zlib
from types import TracebackType
from typing import BinaryIO

from .findings import Finding, InputRefusedError

__all__ = ["ByteStream", "file_format", "open_regular", "refuse"]

BLOCK = 1 << 20
MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1f\x8b", "gzip"),
    (344, b"n+1\0", "nifti"),
    (344, b"ni1\0", "nifti pair"),
    (4, b"n+2\0\r\n\x1a\n", "nifti"),
    (4, b"ni2\0\r\n\x1a\n", "nifti pair"),
    (128, b"DICM", "dicom"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"MM\0+", "tiff"),
    (0, b"BM", "bmp"),
    (0, b"NRRD000", "nrrd"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"%PDF", "pdf"),
    (0, b"\x93NUMPY", "npy"),
)


def refuse(code: str, rule: str, found: str, fix: str) -> InputRefusedError:
    """The error for one rejecting finding."""
    return InputRefusedError([Finding(code, "reject", rule, found, fix)])


def file_format(head: bytes) -> str | None:
    """Name of a file's format by its first bytes (at least 352 of them), or None."""
    for offset, mark, name in MAGIC:
        if head[offset : offset + len(mark)] == mark:
            return name
    text = head[:256].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "html"
    return "metaimage" if text.startswith((b"objecttype", b"ndims", b"comment")) else None


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        InputRefusedError: NOT_A_FILE for folders, pipes and devices (also behind links), LINK, MISSING, PERMISSION,
            PATH (an impossible name) and EMPTY.
    """
    rule, fix = "an item must be a readable regular file", "correct the list, or take the item off it"
    try:
        # without O_NONBLOCK, opening a named pipe waits for a writer for ever
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError:
        raise refuse("PATH", "a path must not hold a null character", "one that does", fix) from None
    except OSError as error:
        raise _open_error(error, path, rule, fix) from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise refuse("NOT_A_FILE", rule, f"{_type(mode)}, not a regular file", fix)
    if os.fstat(handle).st_size == 0:
        os.close(handle)
        raise refuse("EMPTY", "a file must hold data", "an empty file (0 bytes)", "copy the file again")
    return os.fdopen(handle, "rb")


def _type(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe (fifo)", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device or another special file")


def _open_error(error: OSError, path: str | os.PathLike[str], rule: str, fix: str) -> InputRefusedError:
    if error.errno == errno.ELOOP:
        return refuse("LINK", rule, "symbolic links that lead in a loop", "repair the link")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        dangling = " (a dangling symbolic link)" if os.path.islink(path) else ""
        return refuse("MISSING", rule, f"no such file{dangling}", fix)
    if error.errno in (errno.EACCES, errno.EPERM):
        return refuse("PERMISSION", rule, "permission denied", "give the user who runs this the right to read it")
    if error.errno == errno.EISDIR:
        return refuse("NOT_A_FILE", rule, "a directory, not a regular file", fix)
    return refuse("UNREADABLE", rule, f"the system's error {errno.errorcode.get(error.errno or 0, 'unknown')}", fix)


class ByteStream:
    """The decoded bytes of a plain or gzip file, read in order and in parts.

    Attributes:
        head: the first 560 bytes of the file as stored.
        compressed: whether the file is gzip.
        position: decoded bytes read so far.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open_regular(path)
        self.size = os.fstat(self._file.fileno()).st_size
        self.head = self._file.read(560)
        self._file.seek(0)
        self.compressed = self.head[:2] == b"\x1f\x8b"
        self._stream: BinaryIO | gzip.GzipFile = (
            gzip.GzipFile(fileobj=self._file, mode="rb") if self.compressed else self._file
        )
        self.position = 0

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """Up to ``count`` decoded bytes; fewer only at the end.

        Raises:
            InputRefusedError: TRUNCATED or CORRUPT for a broken gzip stream, UNREADABLE for a failing disk.
        """
        rule, fix = "a compressed file must be whole", "copy it again and compare checksums"
        parts: list[bytes] = []
        try:
            while count > 0:
                part = self._stream.read(min(count, BLOCK))
                if not part:
                    break
                parts.append(part)
                count -= len(part)
        except EOFError:
            found = f"a truncated gzip stream that ends after {self.position + sum(map(len, parts))} decoded bytes"
            raise refuse("TRUNCATED", rule, found, fix) from None
        except gzip.BadGzipFile as error:
            crc = "crc" in str(error).lower() or "length" in str(error).lower()
            found = "a checksum (CRC) that does not match" if crc else "bytes after the end that are no gzip"
            raise refuse("CORRUPT" if crc else "TRAILING", rule, found, fix) from None
        except zlib.error:
            raise refuse("CORRUPT", rule, "a corrupt gzip stream that cannot be decompressed", fix) from None
        except OSError as error:
            raise refuse("UNREADABLE", "a file must be readable to its end", type(error).__name__, fix) from None
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.position += len(data)
        return data

    def read_exactly(self, count: int, what: str) -> bytes:
        """``count`` decoded bytes.

        Raises:
            InputRefusedError: TRUNCATED where there are fewer, and what :meth:`read` raises.
        """
        data = self.read(count)
        if len(data) < count:
            rule, fix = f"a file must hold all bytes of its {what}", "copy it again and compare checksums"
            raise refuse("TRUNCATED", rule, f"{len(data)} bytes where {count} are expected (truncated)", fix)
        return data

    def skip(self, count: int, what: str) -> None:
        """Read over ``count`` bytes; raises as :meth:`read_exactly` does."""
        while count > 0:
            part = min(count, BLOCK)
            self.read_exactly(part, what)
            count -= part

    def count_rest(self, limit: int) -> int:
        """Number of decoded bytes up to the end, which also makes gzip compare its checksum; stops above ``limit``."""
        total = 0
        while total <= limit and (part := len(self.read(BLOCK))):
            total += part
        return total
