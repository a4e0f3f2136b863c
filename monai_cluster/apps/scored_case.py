# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A scored case, which cases to look at, and which slice and detail of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .picture_plane import ViewingPlane

__all__ = ["ScoredCase", "boxes_on_slice", "check_case", "detail", "most_labelled_slice", "worst_median_best"]

Array = npt.NDArray[Any]
Rectangle = tuple[float, ...]  # top, bottom, left and right on the screen, in voxel edges
MOST_BOXES = 12


@dataclass(frozen=True)
class ScoredCase:
    """A case with its truth and prediction, all on one grid.

    Attributes:
        name: of the case, as the table calls it.
        score: its score; NaN where there is nothing to score.
        image: grey values ``H W`` or ``H W S``.
        affine: ``4 4``, index to RAS mm; None for pictures, which then get neither letters nor a scale.
        target: class ids like the image, or None.
        prediction: class ids like the image, or None.
        target_boxes: ``N 2d`` in array axes, half-open voxel edges.
        boxes: predicted, ``M 2d`` likewise.
        box_scores: ``M``.
        caption: more about the case, such as its true and predicted class.
    """

    name: str
    score: float
    image: Any
    affine: Any = None
    target: Any = None
    prediction: Any = None
    target_boxes: Any = None
    boxes: Any = None
    box_scores: Any = None
    caption: str = ""


def worst_median_best(scores: Sequence[float]) -> dict[str, int]:
    """Places of the worst, the median and the best case, so that only these need to be loaded.

    Cases without a score (NaN) are left out; two cases have no median; without any score it is ``{"no score": 0}``.

    Raises:
        ValueError: without any case.
    """
    if not len(scores):
        raise ValueError("at least one case is needed, got none.")
    order = sorted((place for place in range(len(scores)) if not math.isnan(scores[place])), key=lambda p: scores[p])
    if not order:
        return {"no score": 0}
    if len(order) == 1:
        return {"only": order[0]}
    middle = {"median": order[(len(order) - 1) // 2]} if len(order) > 2 else {}
    return {"worst": order[0], **middle, "best": order[-1]}


def _boxes(values: Any, dims: int) -> Array:
    return np.zeros((0, 2 * dims)) if values is None else np.asarray(values, np.float64).reshape(-1, 2 * dims)


def most_labelled_slice(case: ScoredCase, plane: ViewingPlane) -> int | None:
    """The slice with most of the true label or boxes, else of the predicted ones, else the middle one."""
    axis, shape = plane.slice_axis, np.shape(case.image)
    if axis is None:
        return None
    for ids in (case.target, case.prediction):
        if ids is not None and np.any(np.asarray(ids)):
            others = tuple(other for other in range(3) if other != axis)
            return int((np.asarray(ids) > 0).sum(others).argmax())
    for values in (case.target_boxes, None if case.boxes is None else _best_first(case)[0][:1]):
        boxes = _boxes(values, 3)
        if len(boxes):
            centres = np.arange(shape[axis]) + 0.5
            inside = (centres[:, None] > boxes[:, axis]) & (centres[:, None] < boxes[:, axis + 3])
            area = np.prod([boxes[:, other + 3] - boxes[:, other] for other in plane.axes], axis=0)
            covered = (inside * area).sum(1)
            return int(np.median(np.flatnonzero(covered == covered.max())))  # the middle of the largest boxes
    return int(shape[axis]) // 2


def _best_first(case: ScoredCase) -> tuple[Array, Array]:
    boxes = _boxes(case.boxes, np.ndim(case.image))
    scores = np.ones(len(boxes)) if case.box_scores is None else np.asarray(case.box_scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order]


def _on_slice(boxes: Array, plane: ViewingPlane, place: int | None) -> npt.NDArray[np.bool_]:
    if plane.slice_axis is None or place is None:
        return np.ones(len(boxes), dtype=bool)
    low, high = boxes[:, plane.slice_axis], boxes[:, plane.slice_axis + 3]
    result: npt.NDArray[np.bool_] = (low < place + 1) & (high > place)
    return result


def boxes_on_slice(
    case: ScoredCase, plane: ViewingPlane, place: int | None, min_score: float
) -> tuple[list[Rectangle], list[tuple[Rectangle, float]]]:
    """Rectangles of the true boxes and of the predicted ones with their scores, on this slice."""
    true = _boxes(case.target_boxes, np.ndim(case.image))
    boxes, scores = _best_first(case)
    shown = np.flatnonzero(_on_slice(boxes, plane, place) & (scores >= min_score))[:MOST_BOXES]
    return (
        [plane.rectangle(box) for box in true[_on_slice(true, plane, place)]],
        [(plane.rectangle(boxes[index]), float(scores[index])) for index in shown],
    )


def detail(case: ScoredCase, plane: ViewingPlane, place: int | None, min_score: float) -> Rectangle:
    """Top, bottom, left and right of a detail that holds truth and prediction and half as much again."""
    height, width = plane.lengths
    corners: list[Rectangle] = []
    for ids in (case.target, case.prediction):
        if ids is not None:
            rows, columns = np.nonzero(plane.picture(np.asarray(ids), place))
            if len(rows):
                corners.append((rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
    true, found = boxes_on_slice(case, plane, place, min_score)
    corners += [*true, *(rectangle for rectangle, _ in found)]
    if not corners:
        return 0.0, float(height), 0.0, float(width)
    table = np.asarray(corners, np.float64)
    (top, left), (bottom, right) = table[:, [0, 2]].min(0), table[:, [1, 3]].max(0)
    # A square on the screen, never below a fifth of the picture, where pixels would be all that is seen.
    side = max(1.5 * (bottom - top) * plane.aspect, 1.5 * (right - left), 0.2 * max(height * plane.aspect, width))
    spans = []
    for low, high, span, length in ((top, bottom, side / plane.aspect, height), (left, right, side, width)):
        span = min(span, length)
        start = min(max((low + high - span) / 2, 0), length - span)
        spans += [float(start), float(start + span)]
    return tuple(spans)


def check_case(case: ScoredCase) -> None:
    """Refuse label maps that are not on the image's grid."""
    shape = np.shape(case.image)
    for what, ids in (("target", case.target), ("prediction", case.prediction)):
        if ids is not None and np.shape(ids) != shape:
            raise ValueError(
                f"the {what} of {case.name} must be on the image's grid, got shapes {np.shape(ids)} and {shape}: "
                "resample it."
            )
