# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Walk over the chunks of a PNG file: every length and checksum, and that the pixels are all there."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from .limits import Limits
from .picture_containers import MAX_TEXT, Container, broken, check_size, need

__all__ = ["walk_png"]

PART = 1 << 20
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PNG_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def walk_png(file: BinaryIO, size: int, limits: Limits) -> Container:
    """Check every chunk of a PNG file, with its checksum, and that its pixels are all there.

    Raises:
        InputRefusedError: TRUNCATED, CORRUPT, HEADER and TOO_LARGE.
    """
    found, seen, pixels = Container(), [b""], None
    position = 8
    while seen[-1] != b"IEND":
        file.seek(position)
        length, name = struct.unpack(">I4s", need(file.read(8), 8, "PNG chunk"))
        if position + 12 + length > size:
            text = f"a chunk that needs {position + 12 + length - size} bytes more than there are (truncated)"
            raise broken("TRUNCATED", "the length of a PNG chunk must lie within the file", text)
        if (name == b"IHDR") != (len(seen) == 1) or (name == b"IDAT" and b"IDAT" in seen and seen[-1] != b"IDAT"):
            raise broken("HEADER", "the chunks of a PNG file must be in order", "another order, or no header")
        if name not in PNG_CRITICAL and not name[0] & 0x20:
            raise broken("HEADER", "a PNG file must hold known critical chunks only", "an unknown one (corrupt)")
        if name == b"IHDR":
            pixels = _PngPixels(file.read(13), found, limits)
            file.seek(position + 8)
        data = _checked_chunk(file, name, length, pixels if name == b"IDAT" else None)
        _note_chunk(name, data, found)
        seen.append(name)
        position += 12 + length
    assert pixels is not None
    pixels.finish()
    found.trailing = size - position
    return found


class _PngPixels:
    """The inflated size and the checksum of a PNG file's pixels, without keeping them."""

    def __init__(self, header: bytes, found: Container, limits: Limits) -> None:
        width, height, bits, colour, method, filters, laced = struct.unpack(">IIBBBBB", need(header, 13, "PNG header"))
        found.rows, found.columns, found.bits = height, width, bits
        if bits not in PNG_DEPTHS.get(colour, ()) or method or filters or laced > 1:
            text = f"colour type {colour} with {bits} bits (an invalid header)"
            raise broken("HEADER", "a PNG header must be valid", text)
        check_size(found, limits)
        passes = ADAM7 if laced else ((0, 0, 1, 1),)
        sides = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
        per_pixel = bits * PNG_CHANNELS[colour]
        self.expected = sum(high * (1 + (wide * per_pixel + 7) // 8) for wide, high in sides if wide > 0 and high > 0)
        self.stream, self.count = zlib.decompressobj(), 0

    def update(self, data: bytes) -> None:
        """Take in a part of the compressed pixels."""
        try:
            while data and not self.stream.eof and self.count <= self.expected:
                self.count += len(self.stream.decompress(data, PART))
                data = self.stream.unconsumed_tail
        except zlib.error:
            raise broken("CORRUPT", "the pixels of a PNG file must be a whole zlib stream", "a corrupt one") from None

    def finish(self) -> None:
        """Compare with what the header asks for."""
        while self.count <= self.expected and not self.stream.eof:
            before = self.count
            self.count += len(self.stream.decompress(b"", PART))  # what was held back by the size of a part
            if self.count == before:
                break
        rule = "the pixels of a PNG file must be as many as its header declares"
        if self.count < self.expected or not (self.stream.eof or self.count > self.expected):
            text = f"{self.count} bytes where {self.expected} are expected (truncated)"
            raise broken("TRUNCATED", rule, text)
        if self.count > self.expected:
            raise broken("HEADER", rule, f"more than the {self.expected} bytes that its size needs")


def _checked_chunk(file: BinaryIO, name: bytes, length: int, pixels: _PngPixels | None) -> bytes:
    """The first bytes of a chunk whose checksum is right; pixels are handed on."""
    crc, left, first = zlib.crc32(name), length, b""
    while left:
        part = need(file.read(min(left, PART)), min(left, PART), "PNG chunk")
        crc = zlib.crc32(part, crc)
        left -= len(part)
        first = first or part[:MAX_TEXT]
        if pixels is not None:
            pixels.update(part)
    if int.from_bytes(need(file.read(4), 4, "PNG chunk"), "big") != crc:
        raise broken("CORRUPT", "the checksum (CRC) of every PNG chunk must be right", "a wrong one (corrupt)")
    return first


def _note_chunk(name: bytes, data: bytes, found: Container) -> None:
    if name == b"tEXt":
        found.note(data)
    elif name in (b"zTXt", b"iTXt"):
        key, _, rest = data.partition(b"\0")
        packed = name == b"zTXt" or rest[:1] == b"\1"
        body = rest[1:] if name == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
        if packed:
            try:
                body = zlib.decompressobj().decompress(body, MAX_TEXT)
            except zlib.error:
                body = b""
        found.note(key + b"\0" + body)
    elif name == b"acTL" and len(data) >= 4:
        found.pages = max(1, int.from_bytes(data[:4], "big"))
