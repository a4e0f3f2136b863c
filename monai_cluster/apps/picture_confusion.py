# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .picture_style import new_figure, save, shortened

__all__ = ["draw_confusion"]


def draw_confusion(counts: Any, class_names: Sequence[str], out_png: str | Path, subtitle: str = "") -> Path:
    """Draw a confusion matrix: colour is the share of the true class, so that rare classes count like frequent ones.

    Args:
        counts: ``K K``, rows truth, columns prediction, as :func:`monai_cluster.metrics.confusion_counts` gives them.
        class_names: K names.
        out_png: the picture.
        subtitle: such as the scores.

    Returns:
        The picture's path.

    Raises:
        ValueError: for a table that is not square or names that do not fit it.
    """
    table = np.asarray(counts, np.float64)
    if table.ndim != 2 or table.shape != (len(class_names), len(class_names)) or not len(table):
        raise ValueError(f"counts K K and K names are needed, got shape {table.shape} and {len(class_names)} names.")
    sums = table.sum(1, keepdims=True)
    shares = np.divide(table, sums, out=np.full_like(table, np.nan), where=sums > 0)
    side = max(4.2, 0.85 * len(table) + 2.2)
    figure = new_figure(side + 1.0, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{table[row, column]:.0f}" + ("" if np.isnan(share) else f"\n{share:.0%}")
        colour = "black" if np.isnan(share) or share > 0.6 else "white"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9 if len(table) < 9 else 7)
    names = [shortened(str(name), 16) for name in class_names]
    axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) * len(names) < 40 else 35, ha="center")
    axes.set_yticks(range(len(names)), [f"{name} ({total:.0f})" for name, total in zip(names, sums[:, 0], strict=True)])
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (samples)")
    axes.set_title(f"Confusion matrix, n = {table.sum():.0f}" + (f"\n{subtitle}" if subtitle else ""), fontsize=11)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the true class")
    figure.set_layout_engine("constrained")
    return save(figure, out_png)
