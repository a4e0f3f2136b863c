# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Inspect one picture (PNG, JPEG, TIFF or BMP): its container first, then its values as the package reads them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import SimpleITK as sitk
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from .byte_stream import file_format, open_regular, refuse
from .findings import Inspection
from .geometry import check_shape
from .guarding import guarded
from .identifiers import warn_of_identifiers
from .jpeg_segments import walk_jpeg
from .limits import Limits
from .picture_containers import Container, check_size, walk_bmp
from .picture_values import check_mode, scan_picture
from .png_chunks import walk_png
from .silence import hushed, written
from .tiff_directories import walk_tiff
from .values import judge_values

__all__ = ["inspect_picture"]

WALKS = {"png": walk_png, "jpeg": walk_jpeg, "tiff": walk_tiff, "bmp": walk_bmp}
SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff", ".bmp": "bmp"}
EXTRANEOUS = re.compile(rb"(\d{1,9}) extraneous bytes")
FEW_BYTES = 16  # between segments, as careless writers leave there; more are lost pixels
QUARTER_TURN = 5  # orientation tags from 5 on swap rows and columns
MAX_TWICE = 36_000_000  # pixels of a JPEG file that are decoded a second time, which holds both
ORIENTATION, GPS = 0x0112, 0x8825
EXIF_TEXTS = (269, 270, 285, 315, 316, 33432, 37510, 40091, 40092, 40093, 40094, 40095, 42032)
EXIF_PART = 0x8769


def inspect_picture(
    path: str | os.PathLike[str], kind: str | None = "image", limits: Limits | None = None
) -> Inspection:
    """Inspect one picture without trusting it.

    Args:
        path: of the file.
        kind: ``image`` or ``volume``, as the list says; pictures are images.
        limits: sizes that are refused.

    Returns:
        facts with shape ``rows columns`` after the EXIF orientation, of grey values as the package reads them, and
        findings.
    """
    limits, inspection = limits or Limits(), Inspection()
    with guarded(inspection), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        inspection.facts.num_bytes = size
        name = _format(file, Path(os.fsdecode(path)).suffix.lower(), inspection)
        if kind == "volume":
            fix = "list it under images, or make one NIfTI file of the slices"
            inspection.reject("NDIM", "a volume must have three axes", "a picture, which has two", fix)
        container = WALKS[name](file, size, limits)
        if container.trailing:
            found = f"{container.trailing} trailing bytes after the end of the picture"
            inspection.warn("TRAILING", "a picture's file should end with the picture", found, "save it again")
        _decode(file, name, container, inspection, limits)
        warn_of_identifiers(container.texts, "the picture's texts (metadata)", inspection)
        if container.place:
            fix = "remove the metadata before the files leave the hospital"
            inspection.warn("PHI", "metadata should not identify a patient", "a place (GPS)", fix)
    return inspection


def _format(file: BinaryIO, suffix: str, inspection: Inspection) -> str:
    """The format by content; a warning where the suffix says another."""
    name = file_format(file.read(560))
    if name not in WALKS:
        rule = "a picture must be PNG, JPEG, TIFF or BMP"
        code = "CONTAINER" if name and suffix in SUFFIXES else "NOT_AN_IMAGE"
        found = f"a file of another format ({name or 'unknown'}) than its suffix says" if suffix in SUFFIXES else name
        raise refuse(code, rule, f"{found or 'an unknown format'}, not a picture", "take it off the list")
    if SUFFIXES.get(suffix) != name:
        found = f"{name.upper()} content under another suffix"
        fix = "it is read by its content; give it the suffix of its format"
        inspection.warn("CONTAINER", "suffix (extension) and format should agree", found, fix)
    return name


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """Keep Pillow from filling up truncated files, whatever the process has set."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _decode(file: BinaryIO, name: str, container: Container, inspection: Inspection, limits: Limits) -> None:
    """Decode the picture and judge what it shows.

    Raises:
        InputRefusedError: HEADER, TRUNCATED, CORRUPT and TOO_LARGE.
    """
    file.seek(0)
    with _strict(), hushed() as heard:
        try:
            with Image.open(file, formats=[name.upper()]) as picture:
                container.columns, container.rows = picture.size
                check_size(container, limits)
                if _check_pages(max(container.pages, int(getattr(picture, "n_frames", 1))), inspection):
                    picture.seek(0)
                turn = _read_exif(picture, container)
                picture.load()
                twice = name == "jpeg" and container.rows * container.columns <= MAX_TWICE
                complaint = _jpeg_complaint(file) if twice else written(heard)
                _check_complaint(complaint, inspection)
                _judge(picture, turn, container, inspection, limits)
        except Image.DecompressionBombError:
            found = "more pixels than Pillow decodes: too large, or a decompression bomb"
            raise refuse("TOO_LARGE", "a picture must stay below the limit", found, "take it off the list") from None
        except UnidentifiedImageError:
            found = "one that Pillow does not identify"
            raise refuse("HEADER", "a picture's header must be valid", found, "save it again") from None
        except (OSError, SyntaxError, EOFError) as error:
            cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
            found = f"{'a truncated one' if cut else 'a corrupt one'} that cannot be decoded ({type(error).__name__})"
            fix = "copy the file again and compare checksums"
            raise refuse("TRUNCATED" if cut else "CORRUPT", "a picture must be whole", found, fix) from None


def _judge(picture: Image.Image, turn: int, container: Container, inspection: Inspection, limits: Limits) -> None:
    rule = "a picture should be stored as it is looked at"
    if turn >= QUARTER_TURN and picture.format == "TIFF":
        # Pillow 13 maps such files into memory with rows and columns swapped, and scrambles them
        found = "a TIFF file with an orientation tag that turns it by a quarter, which readers get wrong"
        inspection.reject("ORIENTATION", rule, found, "save it turned upright, without the tag")
    elif turn > 1:
        found = "an EXIF orientation that rotates or mirrors it"
        fix = "it is read turned upright; boxes and labels must have been drawn on the turned picture"
        inspection.warn("ORIENTATION", rule, found, fix)
    shown = ImageOps.exif_transpose(picture) if turn > 1 else picture
    inspection.facts.kind, inspection.facts.shape = "image", (shown.height, shown.width)
    check_shape(inspection.facts.shape, inspection, limits)
    coloured = check_mode(shown, container.bits, inspection)
    scan_picture(shown, coloured, inspection)
    judge_values(inspection, limits)


def _check_pages(pages: int, inspection: Inspection) -> bool:
    if pages > 1:
        found = f"{pages} pages or frames (a stack)"
        fix = "save the pages as files of their own, or as one NIfTI volume"
        inspection.reject("NDIM", "a picture must have one page", found, fix)
    return pages > 1


def _jpeg_complaint(file: BinaryIO) -> bytes:
    """What SimpleITK's JPEG library says aside while it decodes. Pillow's fills up lost pixels without a word."""
    with tempfile.TemporaryDirectory() as folder, hushed() as heard:
        path = os.path.join(folder, "picture.jpg")  # a name and suffix of our own: the library goes by them
        file.seek(0)
        with open(path, "wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
        with contextlib.suppress(RuntimeError):  # what it does not read at all, Pillow has judged
            sitk.ReadImage(path, imageIO="JPEGImageIO")
        return written(heard)


def _check_complaint(heard: bytes, inspection: Inspection) -> None:
    """What the JPEG library says aside, of pixels that it replaces by grey or noise."""
    said = heard.lower()
    extra = EXTRANEOUS.search(said)
    if extra and int(extra[1]) <= FEW_BYTES:
        found = "bytes between its segments that belong to none"
        inspection.warn("CORRUPT", "a picture should hold nothing but its data", found, "look at it")
    elif b"corrupt" in said or b"premature" in said:
        code = "TRUNCATED" if b"premature" in said else "CORRUPT"
        found = "compressed data that are corrupt or truncated inside"
        inspection.reject(code, "all pixels of a picture must be decodable", found, "copy the file again")


def _read_exif(picture: Image.Image, container: Container) -> int:
    """Note texts and place of the EXIF data; the orientation tag, 1 for upright."""
    try:
        exif = picture.getexif()
        parts = [dict(exif), dict(exif.get_ifd(EXIF_PART))]
        container.place |= bool(exif.get_ifd(GPS))
        tag = exif.get(ORIENTATION)
        turn = tag if isinstance(tag, int) and 1 < tag < 9 else 1
    except Exception:  # malformed EXIF data raise many types; readers then leave the picture as it is
        return 1
    for part in parts:
        for key in EXIF_TEXTS:
            value = part.get(key)
            if isinstance(value, bytes):
                value = value.replace(b"\0", b"")
            if isinstance(value, (str, bytes)):
                container.note(value)
    return turn
