# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Curves of a supervised run: losses, validation scores and learning rate over epochs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from .picture_style import GREY, PALETTE, new_figure, save

__all__ = ["draw_training"]


def draw_training(metrics_jsonl: str | Path, out_png: str | Path) -> Path:
    """Draw the losses, the validation scores and the learning rate that ``metrics.jsonl`` holds.

    Args:
        metrics_jsonl: written by :class:`~monai_cluster.handlers.MetricsJsonl`.
        out_png: the picture.

    Returns:
        The picture's path.

    Raises:
        ValueError: if the file holds no epoch.
    """
    epochs = [json.loads(line) for line in Path(metrics_jsonl).read_text(encoding="utf-8").splitlines() if line]
    if not epochs:
        raise ValueError(f"{Path(metrics_jsonl).name} holds no epoch: the run ended before its first one did.")
    names = sorted({name for epoch in epochs for name in epoch})
    panels = [
        ("loss per step, mean of the epoch", [name for name in names if name.endswith("loss")], "log"),
        ("validation score", [name for name in names if name.startswith("val_") and name != "val_score"], "linear"),
        ("learning rate of the new layers", ["lr"], "linear"),
    ]
    panels = [panel for panel in panels if any(name in epoch for name in panel[1] for epoch in epochs)]
    figure = new_figure(5.2 * len(panels), 3.4)
    for place, (title, series, scale) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for number, name in enumerate(series):
            points = [(epoch["epoch"], epoch[name]) for epoch in epochs if epoch.get(name) is not None]
            _line(axes, points, name, PALETTE[number % len(PALETTE)] if len(series) > 1 else PALETTE[0])
        if title.startswith("validation"):
            axes.set_ylim(0, 1.02)
        drawn = [epoch[name] for epoch in epochs for name in series if (epoch.get(name) or 0) > 0]
        if scale == "log" and drawn and max(drawn) > 10 * min(drawn):  # else it has no round ticks
            axes.set_yscale(scale)
        axes.set_xlim(0.5, epochs[-1]["epoch"] + 0.5)  # one range for panels that have numbers in few epochs
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GREY, alpha=0.25)
        if len(series) > 1:
            axes.legend(fontsize=8, frameon=False)
    figure.set_layout_engine("constrained")
    return save(figure, out_png)


def _line(axes: Any, points: list[tuple[float, float]], name: str, colour: str) -> None:
    if points:
        marker = "o" if len(points) < 40 else None
        axes.plot(*zip(*points, strict=True), color=colour, label=name, marker=marker, markersize=3, linewidth=1.4)
