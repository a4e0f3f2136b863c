# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Free-response ROC: how many of the boxes are found at the price of how many false ones per case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from monai_cluster.metrics.detection_scores import FrocCurve

from .picture_style import PALETTE, new_figure, save, shortened

__all__ = ["draw_froc"]


def draw_froc(
    curves: Mapping[str, FrocCurve],
    out_png: str | Path,
    intervals: Mapping[str, Mapping[float, tuple[float, float]]] | None = None,
    subtitle: str = "",
) -> Path:
    """Draw one curve per model or class, its sensitivities at the reported rates, and their mean in the legend.

    Args:
        curves: as :func:`monai_cluster.metrics.froc` gives them, by name.
        out_png: the picture.
        intervals: ``{name: {rate: (low, high)}}``, drawn as bars at the rates.
        subtitle: such as the overlap that makes a hit and the number of cases.

    Returns:
        The picture's path.

    Raises:
        ValueError: without any curve.
    """
    if not curves:
        raise ValueError("at least one curve is needed, got none.")
    rates = sorted({rate for curve in curves.values() for rate in curve.at_rates})
    figure = new_figure(6.4, 4.6)
    axes = figure.add_subplot()
    grid = np.geomspace(rates[0] / 2, rates[-1], 400)
    for place, (name, curve) in enumerate(curves.items()):
        colour = PALETTE[place % len(PALETTE)]
        label = f"{shortened(name, 30)} (mean {curve.mean:.3f})"
        axes.plot(grid, np.interp(grid, curve.false_positives, curve.sensitivity), color=colour, linewidth=1.6)
        axes.plot(list(curve.at_rates), list(curve.at_rates.values()), "o", color=colour, markersize=5, label=label)
        # Side by side, since bars of several curves at one rate would hide each other.
        shift = 1 + 0.05 * (place - (len(curves) - 1) / 2)
        for rate, (low, high) in (intervals or {}).get(name, {}).items():
            axes.plot([rate * shift] * 2, [low, high], color=colour, linewidth=1.2, alpha=0.7)
    axes.set_xscale("log", base=2)
    axes.set_xlim(grid[0], rates[-1] * 1.08)
    axes.set_xticks(rates, [f"1/{round(1 / rate)}" if rate < 1 else f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false positives per case")
    axes.set_ylabel("sensitivity")
    axes.set_title("Free-response ROC" + (f"\n{subtitle}" if subtitle else ""), fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="best")
    figure.set_layout_engine("constrained")
    return save(figure, out_png)
