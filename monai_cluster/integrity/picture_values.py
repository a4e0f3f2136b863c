# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The values of a decoded picture: whether it is grey, and its grey values as the package's reader makes them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from .dicom_values import LONGEST_SIDE, write_thumbnail
from .findings import Inspection
from .values import ValueScan

__all__ = ["check_mode", "scan_picture"]

PART = 1 << 19  # pixels looked at at a time
COLOUR_SPREAD = 12  # difference of channels that compression explains in a grey picture
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
AS_RGB = ("P", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX")
DTYPES = {"1": "bool", "I": "int32", "F": "float32"}
READ_AS_LUMINANCE = "it is read as luminance, 0.299 R + 0.587 G + 0.114 B"


def check_mode(picture: Image.Image, bits: int, inspection: Inspection) -> bool:
    """Judge palette, transparency and colour of a decoded picture.

    Args:
        picture: decoded, upright.
        bits: of one channel in the file.
        inspection: takes the findings and the stored type.

    Returns:
        whether its channels differ, so that grey values must be made of them.
    """
    mode = picture.mode
    inspection.facts.dtype = "uint16" if mode.startswith("I;16") else DTYPES.get(mode, "uint8")
    spread, transparent = _channels(picture)
    coloured = spread > COLOUR_SPREAD
    if mode in ("P", "PA") and coloured:
        found = "indices into a palette of colours"
        fix = f"the palette is resolved and {READ_AS_LUMINANCE}; save it as grey values"
        inspection.warn("PALETTE", "a picture should hold grey values", found, fix)
    elif mode in ("CMYK", "YCbCr", "HSV", "LAB") or coloured:
        found = f"colour (mode {mode}) in {len(picture.getbands())} channels"
        fix = f"{READ_AS_LUMINANCE}; remove coloured annotations, or save it as grey values"
        inspection.warn("COLOUR", "a picture should hold grey values", found, fix)
    if transparent:
        found = "an alpha channel, or a colour, that makes parts of it transparent"
        fix = "transparency is ignored when it is read, and what lies under it shows; save it without"
        inspection.warn("ALPHA", "a picture should be opaque", found, fix)
    if bits > 8 and inspection.facts.dtype == "uint8":
        found = f"{bits} bits per channel, of which 8 are read"
        fix = "save it as a grey picture of 16 bits"
        inspection.warn("DTYPE", "a picture of 16 bits should have one channel", found, fix)
    return spread > 0


def scan_picture(picture: Image.Image, coloured: bool, inspection: Inspection) -> None:
    """Write the facts about the grey values of a picture."""
    facts, scan = inspection.facts, ValueScan()
    scan.describe((picture.height, picture.width), "float32" if coloured else facts.dtype)
    every = max(1, -(-max(picture.size) // LONGEST_SIDE))
    shown, first = [], 0
    for block in _blocks(picture):
        grey = _grey(block, coloured)
        scan.update(grey)
        shown.append(grey[-first % every :: every, ::every].copy())  # a view would keep the whole block
        first += grey.shape[0]
    scan.write(facts)
    write_thumbnail(np.concatenate(shown), inspection)


def _blocks(picture: Image.Image) -> Iterator[np.ndarray]:
    """A few rows at a time, ``rows columns`` or ``rows columns channels``, palettes resolved."""
    rows = max(1, PART // max(1, picture.width))
    for top in range(0, picture.height, rows):
        block = picture.crop((0, top, picture.width, min(picture.height, top + rows)))
        yield np.asarray(block.convert("RGB") if block.mode in AS_RGB else block)


def _channels(picture: Image.Image) -> tuple[int, bool]:
    """Largest difference between the colour channels of a pixel, and whether anything is transparent."""
    spread, transparent = 0, _transparent_colour(picture)
    alpha = picture.mode in ("LA", "La", "RGBA", "RGBa")
    for block in _blocks(picture):
        if block.ndim == 3 and block.shape[2] >= 3:
            red, green, blue = (block[..., channel].astype(np.int16) for channel in range(3))
            high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
            spread = max(spread, int((high - low).max()))
        transparent |= alpha and bool((block[..., -1] < 255).any())
    return spread, transparent


def _transparent_colour(picture: Image.Image) -> bool:
    mark = picture.info.get("transparency")
    if picture.mode == "PA":
        return bool((np.asarray(picture.getchannel("A")) < 255).any())
    return min(mark, default=255) < 255 if isinstance(mark, bytes) else mark is not None


def _grey(block: np.ndarray, coloured: bool) -> np.ndarray:
    if block.ndim == 2:
        return block.astype(np.uint8) if block.dtype == bool else block
    if not coloured:
        return np.ascontiguousarray(block[..., 0])
    return np.asarray(block[..., :3].astype(np.float32) @ LUMINANCE, dtype=np.float32)
