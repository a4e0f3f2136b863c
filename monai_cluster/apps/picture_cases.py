# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The worst, the median and the best case: what the numbers of a table look like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .picture_plane import ViewingPlane, add_letters, add_scale_bar, viewing_plane
from .picture_style import PALETTE, grey_levels, new_figure, save, shortened

__all__ = ["ScoredCase", "draw_cases", "worst_median_best"]

Array = npt.NDArray[Any]
# The palette's colours that stand out on grey and black, classes 1, 2 …
ON_GREY = tuple(PALETTE[place] for place in (1, 4, 7, 3, 2, 5))
TRUTH, FOUND = PALETTE[4], PALETTE[1]
MOST_BOXES = 12
COLUMN = 3.6  # inches


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


def draw_cases(
    cases: Sequence[ScoredCase],
    out_png: str | Path,
    class_names: Sequence[str] = (),
    score_name: str = "Dice",
    num_cases: int | None = None,
    min_box_score: float = 0.05,
) -> Path:
    """Draw the worst, median and best case: above the slice with most of the truth, below it truth and prediction.

    The lower row is a detail, whose frame is drawn into the upper row. Truth is filled, predictions are lines; boxes
    are solid where true and dashed where predicted, with their scores.

    Args:
        cases: all of them, or the three that :func:`worst_median_best` chose.
        out_png: the picture.
        class_names: of all class ids, the background's first.
        score_name: what the score is.
        num_cases: how many cases there were, for the title, if ``cases`` are the three chosen.
        min_box_score: predicted boxes below are not drawn, nor more than the 12 best of a slice.

    Returns:
        The picture's path.

    Raises:
        ValueError: without any case, or for label maps that are not on the image's grid.
    """
    chosen = {name: cases[place] for name, place in worst_median_best([case.score for case in cases]).items()}
    for case in chosen.values():
        _check(case)
    rows = 2 if any(_has_marks(case) for case in chosen.values()) else 1
    figure = new_figure(COLUMN * len(chosen) + 0.2, (COLUMN - 0.1) * rows + 1.15)
    grid = figure.add_gridspec(rows, len(chosen))
    ids: set[int] = set()
    for column, (rank, case) in enumerate(chosen.items()):
        image = np.asarray(case.image)
        plane = viewing_plane(image.shape, case.affine)
        place = _slice_with_most(case, plane)
        window = _window(case, plane, place, min_box_score)
        for row in range(rows):
            axes = figure.add_subplot(grid[row, column])
            ids |= _panel(axes, case, plane, place, window if row else None, min_box_score)
            if row == 0:
                axes.set_title(_title(rank, case, score_name, place, image.shape, plane), fontsize=9, pad=4)
                if rows > 1:
                    _frame(axes, window, plane)
    _legend(figure, sorted(ids), class_names, chosen.values())
    figure.suptitle(f"Cases by {score_name}, n = {num_cases or len(cases)}", fontsize=11)
    figure.set_layout_engine("constrained", rect=(0, 0.05, 1, 0.95))
    return save(figure, out_png)


def _title(
    rank: str, case: ScoredCase, score_name: str, place: int | None, shape: tuple[int, ...], plane: ViewingPlane
) -> str:
    score = "not defined" if math.isnan(case.score) else f"{case.score:.3f}"
    lines = [f"{rank}: {shortened(case.name, 34)}", f"{score_name} {score}"]
    if place is not None and plane.slice_axis is not None:
        lines[1] += f", slice {place + 1} of {shape[plane.slice_axis]}"
    return "\n".join(lines + ([shortened(case.caption, 44)] if case.caption else []))


def _has_marks(case: ScoredCase) -> bool:
    return any(item is not None for item in (case.target, case.prediction, case.target_boxes, case.boxes))


def _boxes(values: Any, dims: int) -> Array:
    return np.zeros((0, 2 * dims)) if values is None else np.asarray(values, np.float64).reshape(-1, 2 * dims)


def _slice_with_most(case: ScoredCase, plane: ViewingPlane) -> int | None:
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


def _drawn_boxes(
    case: ScoredCase, plane: ViewingPlane, place: int | None, min_score: float
) -> tuple[list[tuple[float, ...]], list[tuple[tuple[float, ...], float]]]:
    """Rectangles of the true boxes and of the predicted ones with their scores, on this slice."""
    true = _boxes(case.target_boxes, np.ndim(case.image))
    boxes, scores = _best_first(case)
    shown = np.flatnonzero(_on_slice(boxes, plane, place) & (scores >= min_score))[:MOST_BOXES]
    return (
        [plane.rectangle(box) for box in true[_on_slice(true, plane, place)]],
        [(plane.rectangle(boxes[index]), float(scores[index])) for index in shown],
    )


def _window(case: ScoredCase, plane: ViewingPlane, place: int | None, min_score: float) -> tuple[float, ...]:
    """Top, bottom, left and right of a detail that holds truth and prediction and half as much again."""
    height, width = plane.lengths
    corners: list[tuple[float, ...]] = []
    for ids in (case.target, case.prediction):
        if ids is not None:
            rows, columns = np.nonzero(plane.picture(np.asarray(ids), place))
            if len(rows):
                corners.append((rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
    true, found = _drawn_boxes(case, plane, place, min_score)
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


def _panel(
    axes: Any, case: ScoredCase, plane: ViewingPlane, place: int | None, window: tuple[float, ...] | None, least: float
) -> set[int]:
    """Draw the slice, and with a window what is true and predicted in it; the class ids that were drawn."""
    height, width = plane.lengths
    levels = grey_levels(plane.picture(np.asarray(case.image), place))
    extent = (0, width, height, 0)
    axes.imshow(levels, cmap="gray", vmin=0, vmax=1, extent=extent, aspect=plane.aspect, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    ids: set[int] = set()
    if window is not None:
        ids = _regions(axes, case, plane, place)
        _rectangles(axes, *_drawn_boxes(case, plane, place, least))
        axes.set_xlim(window[2], window[3])
        axes.set_ylim(window[1], window[0])
    add_letters(axes, plane)
    add_scale_bar(axes, plane)
    return ids


def _regions(axes: Any, case: ScoredCase, plane: ViewingPlane, place: int | None) -> set[int]:
    maps = [None if ids is None else plane.picture(np.asarray(ids), place) for ids in (case.target, case.prediction)]
    found = {int(number) for ids in maps if ids is not None for number in np.unique(ids) if number}
    height, width = plane.lengths
    # One more voxel all around, so that a region at the border has a closed outline.
    columns, rows = np.arange(width + 2) - 0.5, np.arange(height + 2) - 0.5
    for number in sorted(found):
        colour = ON_GREY[(number - 1) % len(ON_GREY)]
        for ids, line in zip(maps, (False, True), strict=True):
            region = None if ids is None else np.pad(ids == number, 1).astype(float)
            if region is None or not region.any():
                continue
            if line:
                axes.contour(columns, rows, region, [0.5], colors="black", linewidths=3.0, alpha=0.6)
                axes.contour(columns, rows, region, [0.5], colors=colour, linewidths=1.6)
            else:
                axes.contourf(columns, rows, region, [0.5, 2], colors=colour, alpha=0.4)
    return found


def _rectangles(axes: Any, true: Sequence[tuple[float, ...]], found: Sequence[tuple[tuple[float, ...], float]]) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    drawn = [(box, None) for box in true] + list(found)
    for (top, bottom, left, right), score in drawn:
        colour, line = (TRUTH, "-") if score is None else (FOUND, "--")
        axes.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linestyle=line, linewidth=1.8
            )
        )
        if score is not None:
            text = axes.text(left, top, f"{score:.2f}", color=colour, fontsize=8, ha="left", va="bottom", clip_on=True)
            text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _frame(axes: Any, window: tuple[float, ...], plane: ViewingPlane) -> None:
    from matplotlib.patches import Rectangle

    top, bottom, left, right = window
    if (bottom - top, right - left) < plane.lengths:
        axes.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, fill=False, edgecolor="white", linestyle=":", linewidth=1
            )
        )


def _legend(figure: Any, ids: Sequence[int], class_names: Sequence[str], cases: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for number in ids:
        name = class_names[number] if number < len(class_names) else f"class {number}"
        handles.append(Patch(color=ON_GREY[(number - 1) % len(ON_GREY)], label=name))
    if ids:
        handles += [
            Patch(color="grey", alpha=0.5, label="truth: filled"),
            Line2D([], [], color="grey", label="prediction: line"),
        ]
    if any(case.target_boxes is not None or case.boxes is not None for case in cases):
        handles.append(Line2D([], [], color=TRUTH, label="true box"))
        handles.append(Line2D([], [], color=FOUND, linestyle="--", label="predicted box, with score"))
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 6), fontsize=8, frameon=False)


def _check(case: ScoredCase) -> None:
    shape = np.shape(case.image)
    for what, ids in (("target", case.target), ("prediction", case.prediction)):
        if ids is not None and np.shape(ids) != shape:
            raise ValueError(
                f"the {what} of {case.name} must be on the image's grid, got shapes {np.shape(ids)} and {shape}: "
                "resample it."
            )
