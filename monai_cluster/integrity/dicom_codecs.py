# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Compressed DICOM pixels: which fragments make a frame, what a code stream says of itself, and its decoded values.

JPEG, JPEG-LS and JPEG 2000 are decoded by SimpleITK (GDCM) from a file written here, which holds the code stream and
nothing else of the original: the native parser never meets a header that somebody else wrote.
"""

from __future__ import annotations

import os
import struct
import tempfile
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, SecondaryCaptureImageStorage

from .byte_stream import refuse
from .dicom_headers import COMPRESSED_SYNTAXES, DicomSource
from .findings import InputRefusedError
from .silence import hushed, written

if TYPE_CHECKING:
    from .dicom_pixels import PixelFormat

__all__ = ["decode_frame", "frame_fragments"]

MAX_CODEC_PIXELS = 64_000_000  # decoders hold several copies; a mammogram has 15 million
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
STANDALONE = {0x01, *range(0xD0, 0xD9)}
END_OF_IMAGE = b"\xff\xd9"
COPY_AGAIN = "copy the file again and compare checksums"
RLE_RUN = 128
RULE = "compressed pixels (codec) must be decodable"


def frame_fragments(source: DicomSource, frames: int) -> list[list[tuple[int, int]]]:
    """Offset and length of the fragments of each frame.

    Raises:
        InputRefusedError: TRUNCATED where there are fewer fragments than frames, HEADER where they cannot be told
            apart.
    """
    fragments = source.layout.fragments
    if frames == 1 and fragments:
        return [fragments]
    if len(fragments) == frames:
        return [[one] for one in fragments]
    if len(fragments) < frames:
        found = f"{len(fragments)} compressed fragments for {frames} frames (truncated)"
        raise refuse("TRUNCATED", "every frame must have its compressed pixel data", found, COPY_AGAIN)
    at, length = source.layout.offset_table
    source.data.seek(at)
    starts = [one[0] for one in struct.iter_unpack("<I", source.data.read(length // 4 * 4))]
    places = [offset - fragments[0][0] for offset, _ in fragments]
    if len(starts) != frames or any(start not in places for start in starts) or sorted(set(starts)) != starts:
        found = f"{len(fragments)} compressed fragments for {frames} frames and no valid offset table"
        raise refuse("HEADER", "an offset table must say which fragments make a frame", found, "convert the file")
    bounds = [places.index(start) for start in starts] + [len(fragments)]
    return [fragments[first:last] for first, last in pairwise(bounds)]


def decode_frame(source: DicomSource, declared: PixelFormat, index: int) -> np.ndarray:
    """Decoded values of one frame, ``rows columns`` or ``rows columns 3``.

    Raises:
        InputRefusedError: CODEC, TRUNCATED, HEADER and TOO_LARGE.
    """
    if declared.rows * declared.columns > MAX_CODEC_PIXELS:
        found = f"{declared.rows} × {declared.columns} pixels, too large"
        rule = f"compressed frames must have at most {MAX_CODEC_PIXELS} pixels"
        raise refuse("TOO_LARGE", rule, found, "decompress the file")
    parts = []
    fragments = source.layout.fragments
    plain = len(fragments) == declared.frames
    for offset, length in [fragments[index]] if plain else frame_fragments(source, declared.frames)[index]:
        source.data.seek(offset)
        parts.append(source.data.read(length))
    stream = b"".join(parts)
    family = COMPRESSED_SYNTAXES[source.syntax]
    if family == "RLE":
        return _decode_rle(stream, declared)
    _check_stream(stream, family, declared)
    return _decode_native(stream, source.syntax, declared)


def _decode_rle(stream: bytes, declared: PixelFormat) -> np.ndarray:
    width, pixels = declared.allocated // 8, declared.rows * declared.columns
    planes = width * declared.samples
    if len(stream) < 64 or struct.unpack_from("<I", stream)[0] != planes:
        raise _undecodable(f"run-length data whose number of segments is not {planes}, or truncated")
    starts = [*struct.unpack_from(f"<{planes}I", stream, 4), len(stream)]
    if starts[0] < 64 or sorted(starts) != starts:
        raise _undecodable("run-length segments that lie outside the data (corrupt or truncated)")
    result = np.empty((declared.samples, pixels, width), np.uint8)
    for plane in range(planes):
        data = _unpack_runs(stream[starts[plane] : starts[plane + 1]], pixels)
        result[plane // width, :, width - 1 - plane % width] = np.frombuffer(data, np.uint8)
    shape = (declared.samples, declared.rows, declared.columns)
    values: np.ndarray = result.view(declared.dtype.newbyteorder("<")).reshape(shape)
    picture: np.ndarray = values[0] if declared.samples == 1 else values.transpose(1, 2, 0)
    return picture


def _unpack_runs(data: bytes, count: int) -> bytes:
    """PackBits (DICOM PS3.5, annex G.3): a byte n below 128 copies n + 1 bytes, above it repeats one 257 - n times."""
    result, at = bytearray(), 0
    if len(data) * RLE_RUN < count:
        raise _truncated("run-length data", f"{len(data)} bytes that cannot make {count}")
    while at < len(data) and len(result) < count:
        run = data[at]
        if run < RLE_RUN:
            result += data[at + 1 : at + 2 + run]
            at += 2 + run
        elif run > RLE_RUN:
            result += data[at + 1 : at + 2] * (257 - run)
            at += 2
        else:
            at += 1
    if len(result) < count:
        raise _truncated("run-length data", f"{len(result)} bytes where {count} are expected")
    if len(result) > count:
        raise _undecodable("run-length data that decode to more than a frame (corrupt)")
    return bytes(result)


def _check_stream(stream: bytes, family: str, declared: PixelFormat) -> None:
    """Hold what a code stream says of itself against the header, and look for its end."""
    size = _jpeg2000_size(stream) if family == "JPEG 2000" else _jpeg_size(stream, family)
    if size is None:
        raise _undecodable(f"data that are no {family} code stream, or broken ones")
    rows, columns, samples, bits = size
    if (rows, columns, samples) != (declared.rows, declared.columns, declared.samples) or bits > declared.allocated:
        found = f"a {family} code stream of {rows} × {columns} × {samples} with {bits} bits under a header of "
        found += f"{declared.rows} × {declared.columns} × {declared.samples} with {declared.allocated}"
        raise refuse(
            "HEADER", "compressed pixels must have the size that the header declares", found, "export it again"
        )
    if END_OF_IMAGE not in stream[-18:]:
        raise _truncated(f"{family} data", "no end-of-image mark")


def _jpeg_size(stream: bytes, family: str) -> tuple[int, int, int, int] | None:
    """Rows, columns, components and bits from the frame header of JPEG or JPEG-LS."""
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 10 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF or marker in STANDALONE:
            at += 1 if marker == 0xFF else 2
        elif marker in START_OF_FRAME:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", stream, at + 4)
            return (rows, columns, samples, bits) if (marker == 0xF7) == (family == "JPEG-LS") else None
        else:
            at += 2 + int(struct.unpack_from(">H", stream, at + 2)[0])
    return None


def _jpeg2000_size(stream: bytes) -> tuple[int, int, int, int] | None:
    """Rows, columns, components and bits from the SIZ segment of JPEG 2000."""
    if stream[:4] != b"\xff\x4f\xff\x51" or len(stream) < 45:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", stream, 8)
    samples, bits = struct.unpack_from(">HB", stream, 40)
    return bottom - top, right - left, samples, (bits & 0x7F) + 1


def _decode_native(stream: bytes, syntax: str, declared: PixelFormat) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder, hushed() as heard:
        path = os.path.join(folder, "frame.dcm")
        _wrapped(stream, syntax, declared).save_as(path, enforce_file_format=True)
        try:
            values: np.ndarray = sitk.GetArrayFromImage(sitk.ReadImage(path, imageIO="GDCMImageIO"))
        except (RuntimeError, MemoryError) as error:
            raise _undecodable(f"data that the decoder refuses ({type(error).__name__})") from None
        complaint = written(heard).lower()
    if b"corrupt" in complaint or b"premature" in complaint:
        raise _undecodable("data that the decoder calls corrupt or truncated")
    shape = (declared.rows, declared.columns) + ((3,) if declared.samples == 3 else ())
    if values.size != np.prod(shape):
        raise _undecodable(f"decoded pixels of shape {' × '.join(map(str, values.shape))}")
    return values.reshape(shape)


def _wrapped(stream: bytes, syntax: str, declared: PixelFormat) -> Dataset:
    """The smallest file around a code stream. MONOCHROME1 is left to the caller, who turns it round."""
    wrapped = Dataset()
    wrapped.file_meta = FileMetaDataset()
    wrapped.file_meta.TransferSyntaxUID = UID(syntax)
    wrapped.file_meta.MediaStorageSOPClassUID = wrapped.SOPClassUID = SecondaryCaptureImageStorage
    wrapped.file_meta.MediaStorageSOPInstanceUID = wrapped.SOPInstanceUID = UID("2.25.1")
    wrapped.Rows, wrapped.Columns, wrapped.SamplesPerPixel = declared.rows, declared.columns, declared.samples
    wrapped.BitsAllocated, wrapped.BitsStored, wrapped.HighBit = (
        declared.allocated,
        declared.stored,
        declared.stored - 1,
    )
    wrapped.PixelRepresentation = int(declared.signed)
    wrapped.PhotometricInterpretation = declared.photometric if declared.samples == 3 else "MONOCHROME2"
    if declared.samples == 3:
        wrapped.PlanarConfiguration = 0
    wrapped.PixelData = encapsulate([stream])
    wrapped["PixelData"].VR = "OB"
    wrapped["PixelData"].is_undefined_length = True
    return wrapped


def _undecodable(found: str) -> InputRefusedError:
    return refuse("CODEC", RULE, found, "export the file again, or decompress it with gdcmconv --raw")


def _truncated(what: str, found: str) -> InputRefusedError:
    return refuse("TRUNCATED", f"{what} must be whole", f"{found} (truncated)", COPY_AGAIN)
