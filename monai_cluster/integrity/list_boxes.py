# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The boxes of a list: finite, the right way round, inside their image, with one label each."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

from .findings import Inspection
from .limits import Limits
from .list_rows import ListedRow, ListRow, Tally
from .silence import hushed
from .strict_json import read_json

__all__ = ["check_boxes", "check_row_boxes"]

RULE = "a box must be 4 or 6 finite numbers, the lower corner first, inside its image"
FIX = "correct the box"
SLACK = 1.0  # annotators round: within one pixel a box is taken to touch the border
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def check_boxes(
    rows: Sequence[ListedRow],
    paths: Sequence[Sequence[str]],
    inspection: Inspection,
    limits: Limits,
    required: bool,
    read_items: bool,
) -> None:
    """Add findings about the boxes of rows; ``paths`` are the absolute paths of each row's images."""
    tally = Tally()
    for row, files in zip(rows, paths, strict=True):
        check_row_boxes(ListRow(row.split, row.content, tuple(files)), required, read_items, tally)
    tally.report(inspection)


def check_row_boxes(row: ListRow, required: bool, read_shape: bool, tally: Tally) -> None:
    """Count what is wrong with the boxes of a row.

    Args:
        row: with ``box`` and ``box_label``, or ``label`` for its labels.
        required: the task is detection: boxes and labels must be there.
        read_shape: compare with the shape of the image, read from its header.
        tally: where findings are counted.
    """
    if "box" not in row.columns:
        if required:
            tally.add("reject", "KEY", "a row for detection must have 'box'", "a row without the key")
        return
    boxes = _parsed(row.columns["box"])
    if not isinstance(boxes, list) or not all(isinstance(one, list) for one in boxes):
        tally.add("reject", "BOX", RULE, "boxes that are no list of lists (invalid)", FIX)
        return
    _check_labels(row, len(boxes), required, tally)
    good = [one for one in boxes if _is_ordered(one, tally)]
    if len({len(one) for one in good}) > 1:
        tally.add("reject", "BOX", RULE, "boxes of 4 and of 6 numbers in one row", FIX)
    elif good and read_shape and row.files:
        shape = _shape(row.files[0])
        if shape is not None:
            _check_inside(good, shape, tally)


def _parsed(value: Any) -> Any:
    """In a table, a box is written as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return read_json(value.encode("utf-8", "replace"), allow_nonfinite=True)
    except ValueError:
        return None


def _check_labels(row: ListRow, count: int, required: bool, tally: Tally) -> None:
    labels = _parsed(row.columns.get("box_label"))
    if labels is None and isinstance(row.columns.get("label"), list):
        labels = row.columns["label"]
    if labels is None:
        if required and count:
            tally.add("reject", "BOX", "every box must have one label", "boxes without labels", FIX)
        return
    if not isinstance(labels, list) or len(labels) != count:
        number = len(labels) if isinstance(labels, list) else "no list"
        tally.add("reject", "BOX", "every box must have one label", f"{count} boxes and {number} of labels", FIX)
    elif not all(type(one) is int and one >= 0 for one in labels):
        tally.add("reject", "BOX", "the label of a box must be a whole number from 0", "other labels", FIX)


def _is_ordered(box: list[Any], tally: Tally) -> bool:
    if len(box) not in (4, 6) or not all(type(one) in (int, float) for one in box):
        tally.add("reject", "BOX", RULE, "a box of another number or type of entries (invalid)", FIX)
        return False
    if not all(math.isfinite(one) and abs(one) < 1e9 for one in box):
        tally.add("reject", "BOX", RULE, "a box with numbers that are not finite (NaN) or absurd", FIX)
        return False
    half = len(box) // 2
    if any(start >= end for start, end in zip(box[:half], box[half:], strict=True)):
        tally.add("reject", "BOX", RULE, "a box in the wrong order or of no extent", "write lower corners first")
        return False
    return True


def _check_inside(boxes: list[list[Any]], shape: tuple[int, ...], tally: Tally) -> None:
    half = len(boxes[0]) // 2
    if len(shape) < half:
        tally.add("reject", "BOX", RULE, f"boxes of {half} axes in an image of {len(shape)}", FIX)
        return
    for box in boxes:
        ends = zip(box[half:], shape[:half], strict=True)
        over = max(max(-start for start in box[:half]), max(end - side for end, side in ends))
        if over > SLACK:
            tally.add("reject", "BOX", RULE, "a box outside the image", FIX)
        elif over > 1e-6:
            tally.add("warn", "BOX", RULE, "a box up to one pixel outside the image", "clip it")


def _shape(path: str) -> tuple[int, ...] | None:
    """Columns, rows (and slices) by the header; None where it cannot be read, which other checks report."""
    name = path.lower()
    try:
        with hushed():
            if name.endswith(PICTURES):
                with importlib.import_module("PIL.Image").open(path) as picture:
                    return (int(picture.width), int(picture.height))
            if name.endswith((".nii", ".nii.gz")):
                return tuple(int(one) for one in importlib.import_module("nibabel").load(path).shape[:3])
            if name.endswith((".mha", ".mhd", ".nrrd")):
                reader = importlib.import_module("SimpleITK").ImageFileReader()
                reader.SetFileName(path)
                reader.ReadImageInformation()
                return tuple(int(one) for one in reader.GetSize())
    except Exception:  # libraries raise any type for malformed files
        return None
    return None
