# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Score over the number of labelled patients, one line per initialisation: is the pretraining worth it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .picture_style import GREY, PALETTE, new_figure, save, shortened

__all__ = ["FewLabelPoint", "draw_fewlabel"]

LINES = {"full": "-", "frozen": "--"}
FLOOR_LINES = (":", "-.", (0, (1, 4)), (0, (6, 3)))


class FewLabelPoint(NamedTuple):
    """The score of one initialisation at one number of labelled patients.

    Attributes:
        initialisation: what the weights started from.
        tuning: ``"full"`` (solid line), ``"frozen"`` (dashed), or another name (dotted).
        num_patients: labelled patients in training.
        score: mean over seeds.
        low: lower end of its interval; NaN draws no band.
        high: upper end.
        runs: scores of the seeds, drawn as dots.
    """

    initialisation: str
    tuning: str
    num_patients: int
    score: float
    low: float = math.nan
    high: float = math.nan
    runs: Sequence[float] = ()


def draw_fewlabel(
    points: Sequence[FewLabelPoint],
    out_png: str | Path,
    score_name: str,
    floors: Mapping[str, float] | None = None,
    subtitle: str = "",
) -> Path:
    """Draw the curves of a few-label comparison.

    Args:
        points: in any order; those whose score is NaN are left out.
        out_png: the picture.
        score_name: what the score is, for the axis.
        floors: scores without learning, by name (chance, a mean atlas): horizontal lines.
        subtitle: such as the data, the steps and the number of seeds.

    Returns:
        The picture's path.

    Raises:
        ValueError: without any point with a score.
    """
    known = [point for point in points if not math.isnan(point.score)]
    if not known:
        raise ValueError(f"at least one point with a score is needed, got {len(points)} points without.")
    starts = list(dict.fromkeys(point.initialisation for point in known))
    used = {point.tuning for point in known}
    tunings = [name for name in LINES if name in used] + sorted(used - set(LINES))
    colours = {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(starts)}
    figure = new_figure(8.4, 4.8)
    axes = figure.add_subplot()
    lines = [(start, tuning) for start in starts for tuning in tunings]
    for place, (start, tuning) in enumerate(lines):
        mine = sorted(
            (p for p in known if (p.initialisation, p.tuning) == (start, tuning)), key=lambda p: p.num_patients
        )
        # Moved apart a little, so that dots and bands of equal scores do not hide each other.
        _curve(axes, mine, colours[start], LINES.get(tuning, ":"), 1 + 0.012 * (place - (len(lines) - 1) / 2))
    counts = sorted({point.num_patients for point in known})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlim(counts[0] / 1.15, counts[-1] * 1.15)
    for (name, value), line in zip((floors or {}).items(), FLOOR_LINES * len(floors or {}), strict=False):
        axes.axhline(value, color=GREY, linestyle=line, linewidth=1.3, label=f"{shortened(name, 28)}: {value:.3g}")
    axes.set_xlabel("labelled patients")
    axes.set_ylabel(score_name)
    axes.set_title(f"{score_name} over labelled patients" + (f"\n{subtitle}" if subtitle else ""), fontsize=11)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes, colours, tunings)
    figure.set_layout_engine("constrained")
    return save(figure, out_png)


def _curve(axes: Any, points: Sequence[FewLabelPoint], colour: str, line: str, shift: float) -> None:
    if not points:
        return
    places = [point.num_patients * shift for point in points]
    axes.plot(places, [point.score for point in points], line, color=colour, marker="o", markersize=5, linewidth=1.8)
    banded = [(place, point) for place, point in zip(places, points, strict=True) if not math.isnan(point.low)]
    if len(banded) > 1:
        across, lows, highs = zip(*((place, point.low, point.high) for place, point in banded), strict=True)
        axes.fill_between(across, lows, highs, color=colour, alpha=0.1, linewidth=0)
    elif banded:
        ((place, point),) = banded
        axes.plot([place, place], [point.low, point.high], color=colour, linewidth=1.0, alpha=0.6)
    dots = [(place, run) for place, point in zip(places, points, strict=True) for run in point.runs]
    if dots:
        axes.plot(*zip(*dots, strict=True), ".", color=colour, markersize=4, alpha=0.5)


def _legend(axes: Any, colours: Mapping[str, str], tunings: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], color=colour, linewidth=1.8, marker="o", markersize=5, label=shortened(name, 32))
        for name, colour in colours.items()
    ]
    handles += [Line2D([], [], color="black", linestyle=LINES.get(name, ":"), label=name) for name in tunings]
    handles += axes.get_legend_handles_labels()[0]  # the floors
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
