# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Walk over the segments of a JPEG file up to its end, scans included."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from .byte_stream import refuse
from .limits import Limits
from .picture_containers import MAX_TEXT, MAX_TEXTS, Container, broken, check_size, need

__all__ = ["walk_jpeg"]

PART = 1 << 20
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # after entropy-coded data, which holds FF 00 and restarts
WORDS = re.compile(rb"[\x20-\x7e\xa0-\xff]{4,}")
NAMESPACE = re.compile(r"(?:\w+:)?//\S*|</?[\w:]+")  # addresses and tags of XMP, which look like paths
MAX_DECODER_BYTES = 512 << 20


def walk_jpeg(file: BinaryIO, size: int, limits: Limits) -> Container:
    """Check every segment of a JPEG file up to its end-of-image mark.

    Raises:
        InputRefusedError: TRUNCATED, CORRUPT, HEADER and TOO_LARGE.
    """
    found, position = Container(), 2
    missing: dict[int, list[int]] | None = None  # bits of each coefficient that are to come, by component
    while True:
        position, marker = _next_marker(file, position, size)
        if marker == 0xD9:
            break
        if marker in (0x01, *range(0xD0, 0xD9)):
            continue
        file.seek(position)
        length = int.from_bytes(need(file.read(2), 2, "JPEG segment"), "big")
        data = need(file.read(max(0, length - 2)), max(0, length - 2), "JPEG segment")
        if marker in FRAMES:
            if missing is not None:
                raise broken("HEADER", "a JPEG file must have one frame header", "two of them")
            missing = _frame(data, marker, found, limits)
        elif marker == 0xFE:
            found.note(data)
        elif marker in (0xE1, 0xED) and not data.startswith(b"Exif\0"):
            for text in WORDS.findall(data[:MAX_TEXT])[:MAX_TEXTS]:
                found.note(NAMESPACE.sub(" ", text.decode("latin-1")))
        position += max(2, length)
        if marker == 0xDA:
            _note_scan(data, missing)
            position = _end_of_scan(file, position, size)
    if missing is None:
        raise broken("HEADER", "a JPEG file must have a frame header", "an end without one")
    if any(any(bits) for bits in missing.values()):
        rule = "the scans of a progressive JPEG file must refine all of it"
        raise broken("TRUNCATED", rule, "an end before the last scans (truncated)")
    found.trailing = size - position
    return found


def _frame(data: bytes, marker: int, found: Container, limits: Limits) -> dict[int, list[int]]:
    """Read a frame header; the bits that scans of a progressive file still have to bring, by component.

    What makes a decoder hold much more than the picture is refused: progressive files keep all coefficients.
    """
    found.bits, found.rows, found.columns, channels = struct.unpack_from(">BHHB", need(data, 6, "JPEG frame header"))
    check_size(found, limits)
    progressive = marker & 0xF in (2, 6, 10, 14)
    needed = found.rows * found.columns * ((4 if channels > 1 else 1) + (2 * channels if progressive else 0))
    if needed > MAX_DECODER_BYTES:
        text = f"one that needs about {needed >> 20} MiB to decode: too large"
        rule = f"a JPEG file must be decodable within {MAX_DECODER_BYTES >> 20} MiB"
        raise refuse("TOO_LARGE", rule, text, "save it as PNG, or smaller")
    names = need(data, 6 + 3 * channels, "JPEG frame header")[6 : 6 + 3 * channels : 3]
    return {name: [1] * 64 if progressive else [0] for name in names}


def _note_scan(data: bytes, missing: dict[int, list[int]] | None) -> None:
    """Note which coefficients a scan brings, and how many of their lowest bits are left to later ones."""
    count = need(data, 1, "JPEG scan header")[0]
    first, last, bits = need(data, 4 + 2 * count, "JPEG scan header")[1 + 2 * count : 4 + 2 * count]
    for name in data[1 : 1 + 2 * count : 2]:
        for index in range(first, last + 1):
            if missing and index < len(missing.get(name, ())):
                missing[name][index] = bits & 0xF


def _next_marker(file: BinaryIO, position: int, size: int) -> tuple[int, int]:
    """Where the segment after the next marker begins, and the marker."""
    file.seek(position)
    mark = need(file.read(2), 2, "JPEG segment")
    if mark[0] != 0xFF:
        rule = "the segments of a JPEG file must follow one another"
        raise broken("CORRUPT", rule, "bytes that are no marker (corrupt)")
    while mark[1] == 0xFF:  # fill bytes
        position += 1
        mark = mark[1:] + need(file.read(1), 1, "JPEG segment")
    return position + 2, mark[1]


def _end_of_scan(file: BinaryIO, position: int, size: int) -> int:
    """Where the marker after entropy-coded data lies."""
    file.seek(position)
    before = b""
    while part := file.read(PART):
        hit = MARKER.search(before + part)
        if hit:
            return position - len(before) + hit.start()
        position += len(part)
        before = part[-1:]
    raise broken("TRUNCATED", "a JPEG file must end with its end-of-image mark", "none (truncated)")
