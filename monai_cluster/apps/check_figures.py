# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""How spacing, size and values are distributed, one row of panels for each kind and modality."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_cluster.apps.check_overview import Item
from monai_cluster.apps.picture_style import PALETTE, new_figure

__all__ = ["draw_distributions"]

MOST_GROUPS = 6
BINS = 30
LINES = ("-", "--", ":")


def draw_distributions(items: Sequence[Item]) -> bytes | None:
    """Histograms of spacing (mm), voxels per side and values, as PNG; None where nothing was read.

    Args:
        items: usable ones; the six most frequent kinds with their modality are drawn.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in items:
        if item.facts["shape"]:
            groups.setdefault(item.group, []).append(item.facts)
    chosen = sorted(groups, key=lambda group: -len(groups[group]))[:MOST_GROUPS]
    if not chosen:
        return None
    figure = new_figure(11, 0.4 + 2.5 * len(chosen))
    axes = figure.subplots(len(chosen), 3, squeeze=False)
    for row, group in zip(axes, chosen, strict=True):
        _draw_group(row, f"{group[0]}s, modality {group[1]}", groups[group])
    figure.tight_layout()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, facecolor="white")
    return file.getvalue()


def _draw_group(axes: Any, name: str, facts: Sequence[Mapping[str, Any]]) -> None:
    spacings = {
        "finest axis": [min(one["spacing"]) for one in facts if one["spacing"]],
        "coarsest axis": [max(one["spacing"]) for one in facts if one["spacing"]],
    }
    sides = {
        "shortest side": [min(one["shape"]) for one in facts],
        "longest side": [max(one["shape"]) for one in facts],
    }
    values = {name: [one[name] for one in facts if one[name] is not None] for name in ("minimum", "mean", "maximum")}
    _histogram(axes[0], spacings, "spacing (mm)", logarithmic=True)
    _histogram(axes[1], sides, "voxels per side", logarithmic=True)
    _histogram(axes[2], values, "value (HU in CT, else as stored)", logarithmic=False)
    axes[0].set_title(f"{name} (n = {len(facts):,})", loc="left", fontsize=10)
    axes[0].set_ylabel("items")


def _histogram(axes: Any, series: Mapping[str, Sequence[float]], label: str, logarithmic: bool) -> None:
    every = np.array([value for values in series.values() for value in values], dtype=np.float64)
    every = every[np.isfinite(every) & ((every > 0) | (not logarithmic))]
    axes.set_xlabel(label)
    axes.tick_params(labelsize=8)
    if not every.size:
        axes.text(0.5, 0.5, "unknown", ha="center", va="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    edges = _edges(every, logarithmic)
    for place, (name, values) in enumerate(series.items()):
        inside = np.clip(np.asarray(values, dtype=np.float64), edges[0], edges[-1])
        counts, _ = np.histogram(inside, edges)
        axes.stairs(counts, edges, color=PALETTE[(0, 5, 2)[place]], linestyle=LINES[place], linewidth=1.6, label=name)
    if logarithmic:
        axes.set_xscale("log")
        ticks = _round_ticks(edges[0], edges[-1])
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    elif (scale := _wide_scale(every)) is not None:
        axes.set_xscale("symlog", linthresh=scale)
    axes.set_ylim(bottom=0)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False)


def _edges(values: np.ndarray, logarithmic: bool) -> np.ndarray:
    """Bins over all values, wide enough to be seen where all are equal."""
    if logarithmic:
        low, high = values.min() / 1.2, values.max() * 1.2
        return np.geomspace(low, high, BINS + 1)
    low, high = values.min(), values.max()
    scale = _wide_scale(values)
    if scale is not None:
        bent: np.ndarray = scale * np.sinh(np.linspace(np.arcsinh(low / scale), np.arcsinh(high / scale), BINS + 1))
        return bent
    margin = 0.05 * (high - low) or max(1.0, 0.05 * abs(high))
    return np.linspace(low - margin, high + margin, BINS + 1)


def _wide_scale(values: np.ndarray) -> float | None:
    """Where a few values are far beyond the others: up to what the axis is to be linear, and logarithmic beyond."""
    typical = float(np.percentile(np.abs(values), 75))
    return max(typical, 1.0) if float(np.abs(values).max()) > 50 * max(typical, 1.0) else None


def _round_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten inside the range, at most about eight; else its ends."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    every = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    ticks = [tick for tick in every if low <= tick <= high]
    if len(ticks) > 8:
        ticks = [tick for tick in ticks if f"{tick:e}"[0] == "1"]
    return ticks if len(ticks) > 1 else [float(f"{tick:.3g}") for tick in (low, np.sqrt(low * high), high)]
