# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .picture_style import new_figure, save, shortened

__all__ = ["draw_confusion"]

CELL = 0.85  # inches


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
    names = [shortened(str(name), 20) for name in class_names]
    longest, side = max(map(len, names)), CELL * max(len(table), 3)
    turned = longest > 9  # characters that fit under a cell
    figure = new_figure(side + 0.085 * (longest + 6) + 1.5, side + 1.1 + (0.055 * longest if turned else 0.2))
    figure.set_layout_engine("constrained")  # before the colour bar, which then stands beside the matrix
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{table[row, column]:.0f}" + ("" if np.isnan(share) else f"\n{share:.0%}")
        colour = "black" if np.isnan(share) or share > 0.6 else "white"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9 if len(table) < 9 else 7)
    axes.set_xticks(range(len(names)), names)
    if turned:
        axes.tick_params(axis="x", labelrotation=35)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [f"{name} ({total:.0f})" for name, total in zip(names, sums[:, 0], strict=True)])
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (samples)")
    axes.set_title(f"Confusion matrix, n = {table.sum():.0f}" + (f"\n{subtitle}" if subtitle else ""), fontsize=11)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.set_label("share of the true class")
    return save(figure, out_png)
