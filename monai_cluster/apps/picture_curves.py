# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Curves of a run: losses beside log K, masked prediction beside trivial predictors, cluster health, probes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import LogLocator, MaxNLocator

from .picture_style import GREY, PALETTE, new_figure, save

__all__ = ["draw_curves"]

Curves = dict[str, npt.NDArray[np.float64]]
Panel = Callable[[Any, Curves], bool]

TERMS = ("image", "volume", "slice", "mask")
COLOUR = dict(zip(TERMS, PALETTE, strict=False))


def draw_curves(metrics_jsonl: str | Path, out_png: str | Path) -> Path:
    """Draw everything known that ``metrics.jsonl`` holds, over epochs; a panel without numbers is left out.

    Args:
        metrics_jsonl: written by :class:`~monai_cluster.handlers.MetricsJsonl`.
        out_png: the picture.

    Returns:
        The picture's path.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no epoch.
    """
    curves = _read(Path(metrics_jsonl))
    figure = new_figure(1, 1)
    panels: list[Any] = []
    for draw in PANELS:
        axes = figure.add_subplot(len(PANELS), 1, len(panels) + 1)
        if draw(axes, curves):
            panels.append(axes)
        else:
            axes.remove()
    columns = min(2, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure.set_size_inches(7.6 * columns, 2.7 * rows)
    grid = figure.add_gridspec(rows, columns)
    for place, axes in enumerate(panels):
        axes.set_subplotspec(grid[place // columns, place % columns])
        _finish(axes, curves["epoch"])
    figure.set_layout_engine("constrained")
    return save(figure, out_png)


def _read(path: Path) -> Curves:
    if not path.is_file():
        raise FileNotFoundError(f"no metrics file {path}: a run writes it with the handler MetricsJsonl.")
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # a crash may leave an unfinished last line
            continue
        if isinstance(record, dict) and "epoch" in record:
            records.append(record)
    if not records:
        raise ValueError(f"{path} holds no finished epoch: there is nothing to draw.")
    names = {name: None for record in records for name in record}  # in order of appearance
    return {name: np.array([_number(record.get(name)) for record in records]) for name in names}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _line(axes: Any, curves: Curves, name: str, label: str, **style: Any) -> bool:
    values = curves.get(name)
    if values is None or not np.isfinite(values).any():
        return False
    marked = {"marker": "o", "markersize": 3 if len(values) <= 60 else 0, "linewidth": 1.5, "label": label} | style
    axes.plot(curves["epoch"], values, **marked)  # a lone epoch between gaps has no line; its marker shows it
    return True


def _log_scale(axes: Any) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def _each_term(axes: Any, curves: Curves, suffix: str, **style: Any) -> bool:
    drawn = [_line(axes, curves, f"{term}_{suffix}", term, color=COLOUR[term], **style) for term in TERMS]
    return any(drawn)


def _cluster_losses(axes: Any, curves: Curves) -> bool:
    drawn = False
    for term in TERMS[:3]:
        if _line(axes, curves, f"{term}_loss", term, color=COLOUR[term]):
            drawn = True
            values = curves.get(f"{term}_uniform", np.zeros(0))
            known = values[np.isfinite(values)]
            if known.size:
                label = f"{term}: log K, K = {math.exp(known[-1]):.0f}" if known[-1] < 50 else f"{term}: log K"
                axes.axhline(known[-1], color=COLOUR[term], linestyle="--", linewidth=1, label=label)
    axes.set_title("Clustering losses; dashed: constant predictions")
    axes.set_ylabel("cross-entropy (nats)")
    return drawn


def _total_loss(axes: Any, curves: Curves) -> bool:
    axes.set_title("Weighted sum of the losses, and the mask loss")
    axes.set_ylabel("loss")
    total = _line(axes, curves, "loss", "total", color=GREY)
    return _line(axes, curves, "mask_loss", "mask", color=COLOUR["mask"]) or total


def _mask_ratios(axes: Any, curves: Curves) -> bool:
    mean = _line(axes, curves, "mask_ratio_to_mean", "to the mean token", color=PALETTE[1])
    neighbours = _line(axes, curves, "mask_ratio_to_neighbours", "to neighbour interpolation", color=PALETTE[0])
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1, label="no better than that")
    _log_scale(axes)  # an untrained decoder starts tens of times worse
    axes.set_title("Masked slice prediction against trivial predictors")
    axes.set_ylabel("ratio of losses (log scale)")
    return mean or neighbours


def _perplexity(axes: Any, curves: Curves) -> bool:
    drawn = False
    for term in TERMS[:3]:
        drawn |= _line(axes, curves, f"{term}_target_perplexity", f"{term}: one sample's target", color=COLOUR[term])
        drawn |= _line(
            axes, curves, f"{term}_assignment_perplexity", f"{term}: cluster sizes", color=COLOUR[term], linestyle=":"
        )
    _log_scale(axes)
    axes.set_title("Sharpness of targets, and clusters in use")
    axes.set_ylabel("perplexity (log scale)")
    return drawn


def _use(axes: Any, curves: Curves) -> bool:
    drawn = False
    for term in TERMS[:3]:
        drawn |= _line(axes, curves, f"{term}_occupancy", f"{term}: occupancy", color=COLOUR[term])
        drawn |= _line(axes, curves, f"{term}_churn", f"{term}: churn", color=COLOUR[term], linestyle=":")
    axes.set_title("Prototypes used; samples that changed cluster")
    axes.set_ylabel("share")
    axes.set_ylim(-0.03, 1.03)
    return drawn


def _spread(axes: Any, curves: Curves) -> bool:
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1, label="uniform on the sphere")
    axes.set_title("Spread of the embeddings; 0 is a single point")
    axes.set_ylabel("std · √D")
    drawn = _each_term(axes, curves, "feature_std")
    axes.set_ylim(bottom=0)
    return drawn


def _rank(axes: Any, curves: Curves) -> bool:
    axes.set_title("RankMe")
    axes.set_ylabel("effective directions")
    drawn = _each_term(axes, curves, "rank_me")
    axes.set_ylim(bottom=0)
    return drawn


def _probes(axes: Any, curves: Curves) -> bool:
    endings = ("knn_accuracy", "cluster_nmi", "cluster_ari")
    names = [name for name in curves if name.endswith(endings)]
    drawn = False
    for place, name in enumerate(names):
        probed = np.isfinite(curves[name])  # probes may run every so many epochs: join what there is
        found = {"epoch": curves["epoch"][probed], name: curves[name][probed]}
        drawn |= _line(axes, found, name, name.replace("_", " "), color=PALETTE[place % len(PALETTE)])
    axes.set_title("Probes against a label that training did not see")
    axes.set_ylabel("score")
    return drawn


def _rate(axes: Any, curves: Curves) -> bool:
    axes.set_title("Learning rate")
    axes.set_ylabel("learning rate")
    return _line(axes, curves, "lr", "first parameter group", color=PALETTE[6])


PANELS: tuple[Panel, ...] = (
    _cluster_losses,
    _total_loss,
    _mask_ratios,
    _perplexity,
    _use,
    _spread,
    _rank,
    _probes,
    _rate,
)


def _finish(axes: Any, epochs: npt.NDArray[np.float64]) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = float(epochs.min()), float(epochs.max())
    axes.set_xlim(low - 0.5, high + 0.5)
    axes.title.set_fontsize(10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))
