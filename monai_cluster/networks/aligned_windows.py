# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Sliding windows whose cells lie on one grid at every level of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

from monai.inferers import SlidingWindowInferer

__all__ = ["aligned_inferer", "check_window"]


def check_window(window: Sequence[int], size_divisible: Sequence[int], overlap: float) -> list[int]:
    """The window as a list.

    Raises:
        ValueError: if a side is no multiple of ``size_divisible``, or the overlap lies outside [0, 1).
    """
    if len(window) != len(size_divisible) or any(
        side < 1 or side % step for side, step in zip(window, size_divisible, strict=True)
    ):
        raise ValueError(
            f"window must be {len(size_divisible)} multiples of {tuple(size_divisible)}, got {list(window)}: the cells "
            "of neighbouring windows would not lie on one grid."
        )
    if not 0 <= overlap < 1:
        raise ValueError(f"window_overlap must lie in [0, 1), got {overlap}.")
    return [int(side) for side in window]


def aligned_inferer(
    image_size: Sequence[int], window: Sequence[int], size_divisible: Sequence[int], overlap: float, batch_size: int
) -> SlidingWindowInferer:
    """A sliding window no larger than the images, in steps of whole cells of the deepest level.

    MONAI pads images smaller than the window on both sides and steps by any number of pixels: cells would miss their
    anchors.

    Args:
        image_size: longest side of the images along each axis.
        window: largest window.
        size_divisible: pixels per cell of the deepest level.
        overlap: share that neighbouring windows have in common; steps are rounded down to whole cells.
        batch_size: windows at once.
    """
    roi, shares = [], []
    for longest, side, step in zip(image_size, window, size_divisible, strict=True):
        roi.append(min(side, -(-longest // step) * step))
        interval = max(1, int(roi[-1] * (1 - overlap)) // step) * step
        shares.append(max(0.0, 1 - (interval + 0.5) / roi[-1]))  # half a pixel more, which MONAI's int() cuts off
    return SlidingWindowInferer(roi, batch_size, shares, mode="gaussian")
