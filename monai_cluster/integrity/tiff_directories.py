# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Walk over the directories of a TIFF file: no loops, every value and strip inside the file, texts, pages."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .limits import Limits
from .picture_containers import MAX_TEXT, Container, broken, check_size

__all__ = ["walk_tiff"]

MAX_PAGES = 10_000
MAX_ENTRIES = 4096
MAX_VALUES = 1 << 20
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
LETTERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
WIDTH, HEIGHT, BITS, PACKING, CHANNELS = 256, 257, 258, 259, 277
STRIPS, STRIP_BYTES, TILES, TILE_BYTES = 273, 279, 324, 325
TEXTS = {269, 270, 285, 305, 315, 316, 700, 33432}  # names, descriptions, software, artist, host, XMP, copyright
PLACE = 34853  # GPS
WANTED = {WIDTH, HEIGHT, BITS, PACKING, CHANNELS, STRIPS, STRIP_BYTES, TILES, TILE_BYTES}


@dataclass(frozen=True)
class _Layout:
    """Byte order, and whether offsets have 64 bits (BigTIFF)."""

    order: str
    big: bool

    def offset(self, data: bytes) -> int:
        return int(struct.unpack(self.order + ("Q" if self.big else "I"), data)[0])


def walk_tiff(file: BinaryIO, size: int, limits: Limits) -> Container:
    """Check the directories of a TIFF file.

    Raises:
        InputRefusedError: TRUNCATED, HEADER and TOO_LARGE.
    """
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    layout = _Layout(order, struct.unpack(order + "H", head[2:4])[0] == 43)
    if len(head) < (16 if layout.big else 8):
        raise _truncated()
    position = layout.offset(head[8:16] if layout.big else head[4:8])
    found, seen = Container(pages=0), set[int]()
    while position:
        if position in seen or len(seen) >= MAX_PAGES:
            raise broken("HEADER", "the directories of a TIFF file must end", "a loop, or too many of them")
        seen.add(position)
        entries, position = _directory(file, position, size, layout, found)
        found.pages += 1
        if found.pages == 1:
            _first_page(entries, found, limits)
        _check_strips(entries, size)
    if not found.pages:
        raise broken("HEADER", "a TIFF file must hold a picture", "no directory")
    return found


def _directory(
    file: BinaryIO, position: int, size: int, layout: _Layout, found: Container
) -> tuple[dict[int, tuple[int, ...]], int]:
    """Wanted entries of one directory, and where the next one lies."""
    wide = 8 if layout.big else 4
    head = _at(file, position, 8 if layout.big else 2)
    count = int(struct.unpack(layout.order + ("Q" if layout.big else "H"), head)[0])
    if not 0 < count <= MAX_ENTRIES:
        raise broken("HEADER", "a TIFF directory must be valid", f"one of {count} entries")
    position += len(head)
    raw = _at(file, position, count * (4 + 2 * wide))
    entries: dict[int, tuple[int, ...]] = {}
    for tag, kind, number, field in _entries(raw, layout):
        if kind not in SIZES:
            continue
        length = number * SIZES[kind]
        place = None if length <= wide else layout.offset(field)
        if place is not None and place + length > size:
            raise _truncated()
        if tag in TEXTS:
            found.note(field[:length] if place is None else _at(file, place, min(length, MAX_TEXT)))
        elif tag in WANTED and kind in LETTERS and number <= MAX_VALUES:
            data = field[:length] if place is None else _at(file, place, length)
            entries[tag] = struct.unpack(f"{layout.order}{number}{LETTERS[kind]}", data)
        found.place |= tag == PLACE
    return entries, layout.offset(_at(file, position + len(raw), wide))


def _entries(raw: bytes, layout: _Layout) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, type, number of values and the field with the value or its place."""
    shape = layout.order + ("HHQ8s" if layout.big else "HHI4s")
    yield from struct.iter_unpack(shape, raw)


def _first_page(entries: dict[int, tuple[int, ...]], found: Container, limits: Limits) -> None:
    found.columns, found.rows = (entries.get(tag, (0,))[0] if entries.get(tag) else 0 for tag in (WIDTH, HEIGHT))
    found.bits = max(entries.get(BITS) or (1,))
    check_size(found, limits)


def _check_strips(entries: dict[int, tuple[int, ...]], size: int) -> None:
    """Strips or tiles must lie in the file and, where they are not compressed, hold all pixels."""
    total = 0
    for places, lengths in ((STRIPS, STRIP_BYTES), (TILES, TILE_BYTES)):
        for place, length in zip(entries.get(places, ()), entries.get(lengths, ()), strict=False):
            if place + length > size:
                raise _truncated()
            total += length
    plain = entries.get(PACKING, (1,)) == (1,) and all(entries.get(tag) for tag in (WIDTH, HEIGHT, STRIP_BYTES))
    if plain:
        bits = sum(entries.get(BITS) or (1,)) if len(entries.get(BITS) or ()) > 1 else max(entries.get(BITS) or (1,))
        channels = 1 if len(entries.get(BITS) or ()) > 1 else max(entries.get(CHANNELS) or (1,))
        needed = entries[HEIGHT][0] * ((entries[WIDTH][0] * bits * channels + 7) // 8)
        if total < needed:
            raise _truncated()


def _at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    data = file.read(count)
    if len(data) < count:
        raise _truncated()
    return data


def _truncated() -> Exception:
    text = "a place beyond the end of the file (truncated)"
    return broken("TRUNCATED", "all that a TIFF directory names must lie within the file", text)
