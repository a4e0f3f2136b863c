# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The pixels of a DICOM file: what its header declares, held against what is there, and decoded frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from .byte_stream import refuse
from .dicom_attributes import number, object_name, text
from .dicom_codecs import decode_frame, frame_fragments
from .dicom_elements import EXPORT_AGAIN
from .dicom_headers import BIG_ENDIAN, COMPRESSED_SYNTAXES, DicomSource
from .findings import InputRefusedError
from .limits import Limits

__all__ = ["PixelFormat", "check_pixels", "pixel_format", "read_frame"]

GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "YBR_PARTIAL_422")
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
COPY_AGAIN = "copy the file again and compare checksums"
MAX_FRAMES = 100_000


@dataclass(frozen=True)
class PixelFormat:
    """How the header says that pixels are stored.

    Attributes:
        rows, columns, frames, samples: their numbers.
        allocated, stored: bits of one sample.
        signed: whether integers have a sign.
        photometric: photometric interpretation.
        planar: whether the channels follow one another.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    photometric: str
    planar: bool

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples  # two pixels share their colour
        return self.rows * self.columns * samples * self.allocated // 8

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored samples."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.allocated // 8}")


def pixel_format(source: DicomSource) -> PixelFormat:
    """What the header declares about the pixels.

    Raises:
        InputRefusedError: NOT_AN_IMAGE for objects that are no images, NO_PIXELS, HEADER and DTYPE.
    """
    header, keyword = source.header, source.layout.pixel_keyword
    name = object_name(header)
    if name is not None:
        rule = "a DICOM image must hold pixels of a patient"
        raise refuse("NOT_AN_IMAGE", rule, f"{name}, not an image", "take it off the list")
    if keyword is None:
        found = "none (a header only: a report, or a stripped file)"
        raise refuse("NO_PIXELS", "a DICOM image must hold pixel data", found, "take it off the list")
    if keyword != "PixelData":
        rule, fix = "pixels must be whole numbers in PixelData", "convert the file to NIfTI"
        raise refuse("DTYPE", rule, f"{keyword}, which the package's reader does not know", fix)
    result = PixelFormat(
        rows=_whole(header, "Rows"),
        columns=_whole(header, "Columns"),
        frames=_whole(header, "NumberOfFrames", 1),
        samples=_whole(header, "SamplesPerPixel", 1),
        allocated=_whole(header, "BitsAllocated"),
        stored=_whole(header, "BitsStored"),
        signed=bool(_whole(header, "PixelRepresentation", 0)),
        photometric=text(header, "PhotometricInterpretation").upper(),
        planar=_whole(header, "PlanarConfiguration", 0) == 1,
    )
    _check_format(result, _whole(header, "HighBit", result.stored - 1))
    return result


def _whole(header: Dataset, keyword: str, missing: int | None = None) -> int:
    value = number(header, keyword)
    if value is None and missing is not None and not text(header, keyword):
        return missing
    if value is None or value != int(value):
        state = "not a whole number" if text(header, keyword) else "missing"
        raise _header(f"{keyword} {state} (a header that was truncated, stripped or is corrupt)")
    return int(value)


def _check_format(declared: PixelFormat, high_bit: int) -> None:
    if declared.rows < 1 or declared.columns < 1 or declared.frames < 1:
        raise _header(f"a size of {declared.rows} rows × {declared.columns} columns × {declared.frames} frames")
    if declared.allocated not in (8, 16, 32):
        found = f"{declared.allocated} bits per sample"
        raise refuse("DTYPE", "pixels must have 8, 16 or 32 bits", found, "convert the file")
    if not 1 <= declared.stored <= declared.allocated or high_bit != declared.stored - 1:
        found = f"{declared.allocated} bits allocated, {declared.stored} stored, highest bit {high_bit}"
        raise _header(found)
    grey = declared.photometric in (*GREY, PALETTE)
    if not grey and declared.photometric not in COLOURS:
        raise refuse("DTYPE", "pixels must be grey values", "an unknown photometric interpretation", "convert the file")
    if declared.samples != (1 if grey else 3):
        kind = "grey" if grey else "colour"
        raise _header(
            f"{declared.samples} samples (channels) per pixel, and a photometric interpretation that is {kind}"
        )


def _header(found: str) -> InputRefusedError:
    return refuse("HEADER", "a DICOM header must describe its pixels without contradiction", found, EXPORT_AGAIN)


def check_pixels(source: DicomSource, declared: PixelFormat, limits: Limits) -> None:
    """Hold the declared size against the length of the pixel data and against the limits, before decoding.

    Raises:
        InputRefusedError: TRUNCATED, HEADER, TOO_LARGE and CODEC.
    """
    total = declared.frame_bytes * declared.frames
    size = f"{declared.rows} rows × {declared.columns} columns × {declared.frames} frames"
    if source.syntax in COMPRESSED_SYNTAXES:
        if source.layout.pixel_length is not None:
            found = "uncompressed pixel data under a compressed transfer syntax"
            raise refuse("CODEC", "the transfer syntax must be that of the pixels", found, EXPORT_AGAIN)
        _check_sides(declared, total, size, limits)
        frame_fragments(source, declared.frames)
        return
    length = source.layout.pixel_length
    if length is None:
        found = "compressed (encapsulated) pixel data under an uncompressed transfer syntax"
        raise refuse("CODEC", "the transfer syntax must be that of the pixels", found, EXPORT_AGAIN)
    if length < total:
        rule = "pixel data must be as long as the header declares"
        raise refuse("TRUNCATED", rule, f"{length} bytes where {size} need {total} (truncated)", COPY_AGAIN)
    if length - total > max(1, declared.columns * declared.allocated // 8 - 1):
        raise _header(f"{length} bytes of pixel data where {size} need only {total}")
    _check_sides(declared, total, size, limits)


def _check_sides(declared: PixelFormat, total: int, size: str, limits: Limits) -> None:
    if (
        declared.rows * declared.columns > limits.max_picture_pixels
        or total > limits.max_decoded_bytes
        or declared.frames > MAX_FRAMES
    ):
        found = f"{size}, {total / 2**20:.0f} MiB when decoded: too large"
        raise refuse(
            "TOO_LARGE", "pixels must stay below the limit of size", found, "check the header, or raise the limit"
        )


def read_frame(source: DicomSource, declared: PixelFormat, index: int) -> np.ndarray:
    """Stored values of one frame as the package reads them, ``rows columns``.

    Values are cut to the stored bits; MONOCHROME1 is turned round, so that bone is bright; colour becomes luminance.

    Raises:
        InputRefusedError: CODEC and TRUNCATED.
    """
    if source.syntax in COMPRESSED_SYNTAXES:
        frame = decode_frame(source, declared, index)
        coded = False  # decoders turn compressed YBR to RGB themselves
    else:
        frame = _raw_frame(source, declared, index)
        coded = declared.photometric.startswith("YBR")
    if frame.ndim == 3:
        grey = frame[..., 0].astype(np.float32) if coded else frame.astype(np.float32) @ LUMINANCE
        return np.asarray(grey, dtype=np.float32)
    frame = _stored_bits(frame, declared)
    return _inverted(frame, declared) if declared.photometric == "MONOCHROME1" else frame


def _raw_frame(source: DicomSource, declared: PixelFormat, index: int) -> np.ndarray:
    source.data.seek(source.layout.pixel_offset + index * declared.frame_bytes)
    data = source.data.read(declared.frame_bytes)
    if len(data) < declared.frame_bytes:
        found = f"{len(data)} bytes of a frame of {declared.frame_bytes} (truncated)"
        raise refuse("TRUNCATED", "pixel data must be as long as the header declares", found, COPY_AGAIN)
    values: np.ndarray = np.frombuffer(data, declared.dtype.newbyteorder(">" if source.syntax == BIG_ENDIAN else "<"))
    if declared.photometric == "YBR_FULL_422":
        values = values.reshape(-1, 4)[:, :2]  # the brightness of two pixels, then their common colour
    if declared.samples == 1 or declared.photometric == "YBR_FULL_422":
        values = values.reshape(declared.rows, declared.columns)
    elif declared.planar:
        values = values.reshape(3, declared.rows, declared.columns).transpose(1, 2, 0)
    else:
        values = values.reshape(declared.rows, declared.columns, 3)
    return values


def _stored_bits(frame: np.ndarray, declared: PixelFormat) -> np.ndarray:
    """Without the bits above the stored ones, which old files use for overlays."""
    spare = declared.allocated - declared.stored
    if not spare:
        return frame
    native = frame.astype(declared.dtype)
    shifted: np.ndarray = (native << spare) >> spare
    return shifted


def _inverted(frame: np.ndarray, declared: PixelFormat) -> np.ndarray:
    native: np.ndarray = frame.astype(declared.dtype)
    top = np.array(-1 if declared.signed else 2**declared.stored - 1).astype(declared.dtype)
    turned: np.ndarray = top - native
    return turned
