# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The boxes that a list gives for one item, beside what was read of the item."""

from __future__ import annotations

import math
from typing import Any

from .findings import Facts, Inspection

__all__ = ["check_item_boxes"]

TOLERANCE = 1.0  # px; annotation tools round outwards


def check_item_boxes(boxes: Any, labels: Any, inspection: Inspection) -> None:
    """Add a finding for boxes that are no boxes, lie outside the item, or do not fit their labels.

    Args:
        boxes: list of four numbers (pictures: columns first; pixels) or six (axis order; voxels), lower corner first.
        labels: one per box, or None.
        inspection: of the item, with its shape where that is known; takes the finding.
    """
    wrong = _malformed(boxes) or _outside(boxes, inspection.facts) or _mislabelled(boxes, labels)
    if wrong:
        rule = "boxes must be finite, lower corner first, inside their image, with one label each"
        inspection.reject("BOX", rule, wrong, "correct the boxes of the list")


def _malformed(boxes: Any) -> str | None:
    if not isinstance(boxes, list) or not all(isinstance(box, list) and len(box) in (4, 6) for box in boxes):
        return "boxes that are no lists of 4 or 6 numbers"
    numbers = [one for box in boxes for one in box]
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in numbers):
        return "boxes that hold something else than numbers"
    if not all(math.isfinite(one) for one in numbers):
        return "a box that is not finite (NaN or infinite)"
    if any(low >= high for box in boxes for low, high in _sides(box)):
        return "a box that is empty or in the wrong order (the upper corner first)"
    return None


def _sides(box: list[float]) -> list[tuple[float, float]]:
    half = len(box) // 2
    return list(zip(box[:half], box[half:], strict=True))


def _outside(boxes: list[list[float]], facts: Facts) -> str | None:
    if any(low < -TOLERANCE for box in boxes for low, _ in _sides(box)):
        return "a box with negative coordinates, outside its image"
    if facts.shape is None:
        return None
    # pictures and DICOM images are rows first, their boxes are columns first; files of voxels are as stored
    upright = len(facts.shape) == 2 and facts.affine is None
    shape = facts.shape[::-1] if upright else facts.shape
    for box in boxes:
        if len(box) != 2 * len(shape):
            return f"a box of {len(box) // 2} axes in an image of {len(shape)}"
        if any(high > size + TOLERANCE for (_, high), size in zip(_sides(box), shape, strict=True)):
            return "a box outside its image"
    return None


def _mislabelled(boxes: list[list[float]], labels: Any) -> str | None:
    if labels is None:
        return None
    if not isinstance(labels, list):
        return "labels of boxes that are no list"
    return None if len(labels) == len(boxes) else f"{len(boxes)} boxes and {len(labels)} labels (another number)"
