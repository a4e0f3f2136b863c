# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What all pictures share: a canvas without global state, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["BLUE", "GREY", "PALETTE", "VERMILLION", "category_styles", "grey_levels", "new_figure", "save", "shortened"]

# Okabe & Ito (2008); yellow, which is weak on white, comes last.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
BLUE, VERMILLION, GREY = PALETTE[0], PALETTE[5], "#8C8C8C"
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, drawn by Agg; matplotlib's current figure and backend stay as they are."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, making its folder."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="png", dpi=120, facecolor="white")
    return target


def category_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each category; after eight colours the marker changes, and after 64 all is grey."""
    return {
        name: {
            "color": PALETTE[place % len(PALETTE)] if place < len(PALETTE) * len(MARKERS) else GREY,
            "marker": MARKERS[min(place // len(PALETTE), len(MARKERS) - 1)],
        }
        for place, name in enumerate(names)
    }


def shortened(text: str, length: int) -> str:
    """A text of at most this length, cut in the middle, where names differ least."""
    if len(text) <= length:
        return text
    front = (length - 1) // 2
    return f"{text[:front]}…{text[len(text) - (length - 1 - front) :]}"


def grey_levels(picture: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Intensities between the 1st and 99th percentile on 0 to 1; what is not finite is black."""
    values = np.asarray(picture, np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros(values.shape)
    low, high = np.percentile(finite, (1, 99))
    if high <= low:
        low, high = float(finite.min()), float(finite.max())
    levels: npt.NDArray[np.float64] = np.clip(
        (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12), 0, 1
    )
    return levels
