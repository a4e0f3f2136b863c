# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Open a DICOM file without trusting it: mark, file meta information, transfer syntax, structure, then pydicom."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from .byte_stream import file_format, open_regular, refuse
from .dicom_elements import EXPORT_AGAIN, LONG_VRS, PIXEL_TAGS, SHORT_VRS, Layout, scan_elements
from .dicom_identifiers import IDENTIFYING_KEYWORDS
from .findings import Finding
from .limits import Limits
from .silence import hushed

__all__ = [
    "COMPRESSED_SYNTAXES",
    "DicomSource",
    "content_name",
    "open_dicom",
    "read_header",
]

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
COMPRESSED_SYNTAXES = {
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.4.50": "JPEG",
    "1.2.840.10008.1.2.4.51": "JPEG",
    "1.2.840.10008.1.2.4.57": "JPEG",
    "1.2.840.10008.1.2.4.70": "JPEG",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
PROGRAMMES = (b"MZ", b"\x7fELF", b"#!", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xfe\xed\xfa", b"PK\x03\x04")
MAX_META_BYTES = 1 << 16
MAX_INFLATED_BYTES = 256 << 20  # a deflated data set is held in memory
PART = 1 << 20
KEYWORDS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "EchoTime",
    "EchoNumbers",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TriggerTime",
    "DiffusionBValue",
    "DirectoryRecordSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


@dataclass
class DicomSource:
    """An opened DICOM file of sound structure.

    Attributes:
        data: seekable bytes; inflated where the data set is deflated.
        header: the elements that the checks need, without pixels.
        layout: where the pixels lie in ``data``.
        syntax: UID of the transfer syntax.
        num_bytes: size of the file.
        oddities: warnings about the structure.
    """

    data: BinaryIO
    header: Dataset
    layout: Layout
    syntax: str
    num_bytes: int
    oddities: list[Finding]


def read_header(path: str | os.PathLike[str], limits: Limits | None = None) -> Dataset:
    """The elements of a DICOM file that the checks need, without its pixels.

    Raises:
        InputRefusedError: what :func:`open_dicom` raises.
    """
    with hushed(), open_dicom(path, limits or Limits()) as source:
        return source.header


@contextlib.contextmanager
def open_dicom(path: str | os.PathLike[str], limits: Limits) -> Iterator[DicomSource]:
    """Open a DICOM file, walk over its whole structure and parse its header.

    Raises:
        InputRefusedError: what :func:`~monai_cluster.integrity.byte_stream.open_regular` raises; NOT_AN_IMAGE for
            files that are no DICOM, HEADER (no preamble, a programme in it, contradicting lengths, nesting),
            TRUNCATED, CODEC (unknown transfer syntax), TOO_LARGE and CORRUPT (deflated data sets).
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(560)
        _need_mark(head)
        meta, start, oddities = _read_meta(file, size)
        syntax = meta.get("syntax", "")
        _need_known(syntax)
        data, begin = file, start
        if syntax == DEFLATED:
            data, begin = _inflate(file, start, min(limits.max_decoded_bytes, MAX_INFLATED_BYTES)), 0
        end = data.seek(0, os.SEEK_END)
        explicit, little = syntax != IMPLICIT, syntax != BIG_ENDIAN
        layout = scan_elements(data, begin, end, explicit, little)
        header = _parse(data, begin, explicit, little)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = UID(syntax)
        if "SOPClassUID" not in header and "class" in meta:
            header.SOPClassUID = UID(meta["class"])
        yield DicomSource(data, header, layout, syntax, size, oddities + _oddities(layout))


def content_name(head: bytes) -> str:
    """What a file is by its first bytes, in words; ``DICOM`` where it says so."""
    name = file_format(head)
    if name == "dicom":
        return "DICOM"
    if _starts_with_element(head):
        return "DICOM without preamble"
    return f"a file of format {name}" if name else "a file of unknown format"


def _need_mark(head: bytes) -> None:
    name = content_name(head)
    if name == "DICOM without preamble":
        raise refuse(
            "HEADER",
            "a DICOM file must begin with a preamble of 128 bytes and the mark DICM",
            "elements from the first byte on (no preamble, an old export)",
            "write the file again with a preamble, for example with dcmconv",
        )
    if name != "DICOM":
        rule = "a DICOM file must carry the mark DICM after its preamble"
        raise refuse("NOT_AN_IMAGE", rule, f"{name}, not DICOM", "take it off the list")
    if head.startswith(PROGRAMMES):
        rule = "a DICOM preamble must not be the start of a programme"
        raise refuse("HEADER", rule, "an executable file's mark in the preamble", "ask whoever sent it")


def _starts_with_element(head: bytes) -> bool:
    if len(head) < 12 or head[:2] not in (b"\x02\0", b"\x08\0") or head[3]:
        return False
    return head[4:6] in SHORT_VRS or head[4:6] in LONG_VRS or int.from_bytes(head[4:8], "little") <= 128


def _read_meta(file: BinaryIO, size: int) -> tuple[dict[str, str], int, list[Finding]]:
    """Transfer syntax and SOP class, the offset of the data set, and a warning where the stated length is wrong."""
    position, declared = 132, 0
    found: dict[str, str] = {}
    file.seek(position)
    raw = file.read(MAX_META_BYTES)
    while raw[position - 132 : position - 130] == b"\x02\0" and position != declared:
        at = position - 132
        vr = raw[at + 4 : at + 6]
        wide = vr in LONG_VRS
        if len(raw) < at + (12 if wide else 8):
            break
        if not wide and vr not in SHORT_VRS:
            rule = "file meta information must be made of explicit elements"
            raise refuse("HEADER", rule, "an element of unknown value representation (VR)", EXPORT_AGAIN)
        length = int(struct.unpack_from("<I" if wide else "<H", raw, at + (8 if wide else 6))[0])
        value_at = at + (12 if wide else 8)
        value = raw[value_at : value_at + length]
        if len(value) < length:
            rule, found_text = "a DICOM header must be whole", "an end inside the file meta information (truncated)"
            raise refuse("TRUNCATED", rule, found_text, "copy the file again and compare checksums")
        element = int.from_bytes(raw[at + 2 : at + 4], "little")
        if element == 0 and length == 4:
            declared = 132 + value_at + 4 + int.from_bytes(value, "little")
        elif element in (0x0002, 0x0010):
            key = "class" if element == 0x0002 else "syntax"
            found[key] = value.rstrip(b"\0 ").decode("ascii", "replace")
        position = 132 + value_at + length
    oddities = []
    if declared and declared != position:
        rule = "file meta information should be as long as it says"
        oddities.append(Finding("HEADER", "warn", rule, "another length", EXPORT_AGAIN))
    if position >= size:
        rule = "a DICOM file must hold a data set"
        raise refuse("TRUNCATED", rule, "an end after the file meta information (truncated)", "copy the file again")
    return found, position, oddities


def _need_known(syntax: str) -> None:
    if syntax in COMPRESSED_SYNTAXES or syntax in (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN):
        return
    if not syntax:
        found, code = "none in the file meta information", "HEADER"
    else:
        found, code = "an unknown or unsupported one (no decoder for it, or a video)", "CODEC"
    fix = "convert the file to Explicit VR Little Endian, for example with gdcmconv --raw"
    raise refuse(code, "a DICOM file must name a transfer syntax (codec) that can be decoded", found, fix)


def _inflate(file: BinaryIO, start: int, limit: int) -> BinaryIO:
    """The inflated data set, refused before it grows beyond the limit."""
    file.seek(start)
    stream, result = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO()
    rule = "a deflated data set must be a whole deflate stream"
    try:
        while not stream.eof and (part := file.read(PART)):
            while part and not stream.eof:
                result.write(stream.decompress(part, PART))
                part = stream.unconsumed_tail
                if result.tell() > limit:
                    found = f"more than {limit >> 20} MiB when it is inflated: too large, or a decompression bomb"
                    fix = "convert the file to Explicit VR Little Endian, for example with dcmconv +te"
                    raise refuse("TOO_LARGE", "a deflated data set must stay below the limit", found, fix)
    except zlib.error:
        raise refuse("CORRUPT", rule, "a corrupt one", "copy the file again and compare checksums") from None
    if not stream.eof:
        raise refuse("TRUNCATED", rule, "a truncated one", "copy the file again and compare checksums")
    return result


def _parse(data: BinaryIO, start: int, explicit: bool, little: bool) -> Dataset:
    data.seek(start)
    names = {tag_for_keyword(keyword) for keyword in (*KEYWORDS, *IDENTIFYING_KEYWORDS)}
    wanted = [BaseTag(tag) for tag in names if tag is not None]
    try:
        return read_dataset(data, not explicit, little, stop_when=_at_pixels, specific_tags=wanted)
    except Exception as error:  # pydicom raises many types for malformed headers, RecursionError among them
        found = f"one that pydicom cannot read ({type(error).__name__})"
        raise refuse("HEADER", "a DICOM header must be readable", found, EXPORT_AGAIN) from None


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) in PIXEL_TAGS


def _oddities(layout: Layout) -> list[Finding]:
    found = []
    if layout.repeated:
        rule = "every element must occur once (readers differ in which one they take)"
        found.append(Finding("HEADER", "reject", rule, f"{layout.repeated} repeated", EXPORT_AGAIN))
    if layout.unordered:
        rule = "elements should be ordered by their tags"
        found.append(Finding("HEADER", "warn", rule, "tags that do not ascend", EXPORT_AGAIN))
    if layout.trailing:
        rule = "a DICOM file should end with its last element"
        text_found = f"{layout.trailing} trailing bytes after the pixel data"
        found.append(Finding("TRAILING", "warn", rule, text_found, EXPORT_AGAIN))
    return found
