# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The worst, the median and the best case: what the numbers of a table look like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .picture_plane import ViewingPlane, add_letters, add_scale_bar, viewing_plane
from .picture_style import PALETTE, grey_levels, new_figure, save, shortened
from .scored_case import ScoredCase, boxes_on_slice, check_case, detail, most_labelled_slice, worst_median_best

__all__ = ["draw_cases"]

# The palette's colours that stand out on grey and black, classes 1, 2 …
ON_GREY = tuple(PALETTE[place] for place in (1, 4, 7, 3, 2, 5))
TRUTH, FOUND = PALETTE[4], PALETTE[1]
COLUMN, HEAD, TITLES, FOOT = 3.6, 0.42, 0.45, 0.36  # inches


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
        check_case(case)
    rows, foot = (2, FOOT) if any(_has_marks(case) for case in chosen.values()) else (1, 0.05)
    figure = new_figure(COLUMN * len(chosen) + 0.2, (COLUMN - 0.1) * rows + HEAD + foot + TITLES)
    grid = figure.add_gridspec(rows, len(chosen))
    ids: set[int] = set()
    for column, (rank, case) in enumerate(chosen.items()):
        image = np.asarray(case.image)
        plane = viewing_plane(image.shape, case.affine)
        place = most_labelled_slice(case, plane)
        window = detail(case, plane, place, min_box_score)
        for row in range(rows):
            axes = figure.add_subplot(grid[row, column])
            ids |= _panel(axes, case, plane, place, window if row else None, min_box_score)
            if row == 0:
                axes.set_title(_title(rank, case, score_name, place, image.shape, plane), fontsize=9, pad=4)
                if rows > 1:
                    _frame(axes, window, plane)
    _legend(figure, sorted(ids), class_names, chosen.values(), min_box_score)
    height = figure.get_figheight()
    title = figure.suptitle(f"Cases by {score_name}, n = {num_cases or len(cases)}", fontsize=11, y=1 - 0.08 / height)
    title.set_in_layout(False)  # room for it and for the legend is kept in inches
    figure.set_layout_engine("constrained", rect=(0, foot / height, 1, 1 - (foot + HEAD) / height))
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
        _rectangles(axes, *boxes_on_slice(case, plane, place, least))
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


def _legend(figure: Any, ids: Sequence[int], class_names: Sequence[str], cases: Any, min_box_score: float) -> None:
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
        handles.append(
            Line2D([], [], color=FOUND, linestyle="--", label=f"predicted box, score at least {min_box_score:.2f}")
        )
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 6), fontsize=8, frameon=False)
