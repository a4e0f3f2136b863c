# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Walk over the elements of a DICOM data set without recursion and without reading their values.

A reading library believes every length and calls itself for every nested sequence. Here each length is held against
the file and against the sequence around it, so that afterwards a library meets only headers whose structure is sound.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from pydicom.datadict import DicomDictionary

from .byte_stream import refuse
from .findings import InputRefusedError

__all__ = ["LONG_VRS", "SHORT_VRS", "Layout", "scan_elements"]

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
SEQUENCE_TAGS = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")
PIXEL_TAGS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
MAX_DEPTH = 32  # of sequences; reports reach about 10
MAX_ELEMENTS = 1_000_000
COPY_AGAIN = "copy the file again and compare checksums"
EXPORT_AGAIN = "export the file again"


@dataclass
class Layout:
    """Where the pixels of a data set lie, and what is odd about its structure.

    Attributes:
        pixel_keyword: keyword of the element with the pixels; None where there is none.
        pixel_offset, pixel_length: of its value; the length is None where the pixels are encapsulated.
        offset_table: of the basic offset table of encapsulated pixels.
        fragments: offset and length of each encapsulated fragment.
        repeated: elements that occur twice on the top level.
        unordered: whether tags on the top level do not ascend.
        trailing: bytes after the pixels that are no elements.
    """

    pixel_keyword: str | None = None
    pixel_offset: int = 0
    pixel_length: int | None = 0
    offset_table: tuple[int, int] = (0, 0)
    fragments: list[tuple[int, int]] = field(default_factory=list)
    repeated: int = 0
    unordered: bool = False
    trailing: int = 0


@dataclass
class _Level:
    """One open data set or sequence: its end (of the one around it where its length is undefined), its encoding."""

    end: int
    defined: bool
    sequence: bool
    explicit: bool
    order: str


def scan_elements(source: BinaryIO, start: int, size: int, explicit: bool, little: bool) -> Layout:
    """Walk over the data set that lies in ``start..size`` of a seekable source.

    Args:
        source: the bytes of the file, inflated where the data set is deflated.
        start: offset of the first element after the file meta information.
        size: number of bytes of the source.
        explicit: whether elements name their value representation.
        little: whether the byte order is little endian.

    Raises:
        InputRefusedError: TRUNCATED where an element goes beyond the end of the source, HEADER for lengths that
            contradict each other, unknown value representations and absurd nesting.
    """
    return _Walk(source, start, size, explicit, "<" if little else ">").run()


class _Walk:
    def __init__(self, source: BinaryIO, start: int, size: int, explicit: bool, order: str) -> None:
        self.source, self.position, self.size = source, start, size
        self.layout = Layout()
        self.levels = [_Level(size, True, False, explicit, order)]
        self.seen: set[int] = set()
        self.last = -1

    def run(self) -> Layout:
        top, count = self.position, 0
        try:
            while True:
                level = self.levels[-1]
                if level.defined and self.position == level.end:
                    if len(self.levels) == 1:
                        return self.layout
                    self.levels.pop()
                    continue
                if len(self.levels) == 1:
                    top = self.position
                count += 1
                if count > MAX_ELEMENTS:
                    raise _contradiction(f"more than {MAX_ELEMENTS} elements")
                if level.sequence:
                    self._sequence_step(level)
                else:
                    self._element_step(level)
        except InputRefusedError:
            if self.layout.pixel_keyword is None:
                raise
            self.layout.trailing = self.size - top
            return self.layout

    def _read(self, count: int) -> bytes:
        self.source.seek(self.position)
        data = self.source.read(count)
        if len(data) < count:
            raise refuse(
                "TRUNCATED",
                "a DICOM file must hold all of its elements",
                f"an end of the file inside an element (truncated after {self.size} bytes)",
                COPY_AGAIN,
            )
        self.position += count
        return data

    def _enter(self, length: int, sequence: bool, explicit: bool, order: str) -> None:
        outer = self.levels[-1].end
        defined = length != UNDEFINED
        end = self.position + length if defined else outer
        self._check_end(end)
        self.levels.append(_Level(end, defined, sequence, explicit, order))
        if len(self.levels) > 2 * MAX_DEPTH:
            raise _contradiction(f"sequences nested more than {MAX_DEPTH} deep, which makes readers recurse")

    def _check_end(self, end: int) -> None:
        if end > self.size:
            raise refuse(
                "TRUNCATED",
                "the length of an element must lie within the file",
                f"an element that needs {end - self.size} bytes more than the file holds (truncated)",
                COPY_AGAIN,
            )
        if end > self.levels[-1].end:
            raise _contradiction("an element that is longer than the sequence around it")

    def _sequence_step(self, level: _Level) -> None:
        group, element, length = struct.unpack(level.order + "HHI", self._read(8))
        tag = group << 16 | element
        if tag == ITEM:
            self._enter(length, False, level.explicit, level.order)
        elif tag == SEQUENCE_END and not level.defined:
            self.levels.pop()
        else:
            raise _contradiction("something else than an item in a sequence")

    def _element_step(self, level: _Level) -> None:
        group, element = struct.unpack(level.order + "HH", self._read(4))
        tag = group << 16 | element
        if group == 0xFFFE:
            self._read(4)
            if tag != ITEM_END or level.defined or len(self.levels) == 1:
                raise _contradiction("an item's or sequence's delimiter where an element is meant")
            self.levels.pop()
            return
        vr, length = self._length(level)
        if len(self.levels) == 1:
            self._note(tag)
        if tag in PIXEL_TAGS and length == UNDEFINED:
            self._fragments(level.order, len(self.levels) == 1)
        elif vr == b"SQ" or length == UNDEFINED or (not level.explicit and tag in SEQUENCE_TAGS):
            plain = vr == b"UN"  # of unknown representation and length: encoded as implicit little endian
            self._enter(length, True, level.explicit and not plain, "<" if plain else level.order)
        else:
            self._check_end(self.position + length)
            if tag in PIXEL_TAGS and len(self.levels) == 1 and self.layout.pixel_keyword is None:
                self.layout.pixel_keyword = PIXEL_TAGS[tag]
                self.layout.pixel_offset, self.layout.pixel_length = self.position, length
            self.position += length

    def _length(self, level: _Level) -> tuple[bytes, int]:
        if not level.explicit:
            return b"", int(struct.unpack(level.order + "I", self._read(4))[0])
        vr = self._read(2)
        if vr in SHORT_VRS:
            return vr, int(struct.unpack(level.order + "H", self._read(2))[0])
        if vr in LONG_VRS:
            return vr, int(struct.unpack(level.order + "2xI", self._read(6))[0])
        raise _contradiction("an element of unknown value representation (VR)")

    def _note(self, tag: int) -> None:
        self.layout.unordered |= tag < self.last
        self.layout.repeated += tag in self.seen
        self.seen.add(tag)
        self.last = tag

    def _fragments(self, order: str, top: bool) -> None:
        """Walk over encapsulated pixels: an offset table, then fragments, then a delimiter."""
        found: list[tuple[int, int]] = []
        start = self.position
        while True:
            group, element, length = struct.unpack(order + "HHI", self._read(8))
            tag = group << 16 | element
            if tag == SEQUENCE_END:
                break
            if tag != ITEM or length == UNDEFINED:
                raise _contradiction("something else than a fragment in compressed pixel data")
            self._check_end(self.position + length)
            found.append((self.position, length))
            self.position += length
        if top and found and self.layout.pixel_keyword is None:
            self.layout.pixel_keyword, self.layout.pixel_offset, self.layout.pixel_length = "PixelData", start, None
            self.layout.offset_table, self.layout.fragments = found[0], found[1:]


def _contradiction(found: str) -> InputRefusedError:
    return refuse("HEADER", "the elements of a DICOM file must fit into each other", found, EXPORT_AGAIN)
