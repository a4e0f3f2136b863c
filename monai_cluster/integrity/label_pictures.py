# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Inspect a label map that comes as a picture: PNG, TIFF or BMP, in which every grey value is a class."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from .byte_stream import open_regular
from .findings import Inspection
from .guarding import guarded
from .limits import Limits
from .pictures import inspect_picture
from .values import ValueScan

__all__ = ["SUFFIXES", "inspect_label_picture"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ROWS = 256
GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
OF_PICTURES = ("CONSTANT", "NONFINITE", "RANGE", "COLOUR", "PALETTE")  # said in other words of label maps, or twice


def inspect_label_picture(
    path: str | os.PathLike[str], kind: Literal["volume", "image"] | None, limits: Limits, scan: ValueScan
) -> Inspection:
    """Inspect a picture as a label map.

    Args:
        path: of the file.
        kind: of the image that it belongs to.
        limits: sizes that are refused.
        scan: takes the values.

    Returns:
        facts and findings as for pictures, without those on grey values.
    """
    inspection = inspect_picture(path, kind, limits)
    inspection.findings = [one for one in inspection.findings if one.code not in OF_PICTURES]
    if inspection.verdict == "reject":
        return inspection
    with guarded(inspection), open_regular(path) as file, Image.open(file) as picture:
        rule = "a label map must store every class as one grey value"
        if picture.format == "JPEG":
            found = "a JPEG picture, whose compression changes classes"
            inspection.reject("LABEL", rule, found, "save the label map as PNG or NIfTI from its source")
            return inspection
        upright = ImageOps.exif_transpose(picture)
        values = np.asarray(upright if upright.mode in GREY else upright.convert("RGB"))
        if values.ndim == 3:
            if values.shape[2] == 3 and (values != values[..., :1]).any():
                found = "colours (a palette or RGB), which are read as luminance and then are other classes"
                inspection.reject("LABEL", rule, found, "save the class ids 0, 1, 2 … as grey values")
                return inspection
            values = values[..., 0]
        for start in range(0, values.shape[0], ROWS):
            scan.update(
                values[start : start + ROWS].astype(np.uint8) if values.dtype == bool else values[start : start + ROWS]
            )
        scan.write(inspection.facts)
    return inspection
