# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which slices look at which: attention of the slice aggregator along its axis in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .picture_style import GREY, PALETTE, grey_levels, new_figure, save

__all__ = ["draw_attention"]

Array = npt.NDArray[np.float64]
MOST_IN_STRIP = 12
MOST_HEADS = 8
LEFT, WIDTH = 0.1, 0.735  # of the figure; the strip must stand exactly over the map


def draw_attention(
    attention: Any, positions_mm: Any, slices: Sequence[npt.NDArray[Any]] | npt.NDArray[Any], out_png: str | Path
) -> Path:
    """Draw the strip of slices, the attention of each slice (rows) to each slice (columns), and what each receives.

    Args:
        attention: ``S S`` or ``heads S S``, rows sum to 1; heads are averaged in the map and drawn one by one below.
        positions_mm: ``S``, along the slice normal, in any order. Where two are equal, slice numbers replace them.
        slices: S pictures ``H W`` as they are to be seen (row 0 on top).
        out_png: the picture.

    Returns:
        The picture's path.

    Raises:
        ValueError: for shapes that do not go together.
    """
    weights, positions = np.asarray(attention, np.float64), np.asarray(positions_mm, np.float64)
    heads = weights[None] if weights.ndim == 2 else weights
    number = len(positions)
    if heads.ndim != 3 or heads.shape[1:] != (number, number) or len(slices) != number or positions.ndim != 1:
        raise ValueError(
            f"attention (heads) S S, S positions and S slices are needed, got attention {weights.shape}, positions "
            f"{positions.shape} and {len(slices)} slices."
        )
    order = np.argsort(positions, kind="stable")
    heads, positions = heads[:, order][:, :, order], positions[order]
    pictures, label = [np.asarray(slices[place]) for place in order], "position along the slice normal (mm)"
    if number > 1 and not np.all(np.diff(positions) > 0):
        positions, label = np.arange(number, dtype=np.float64), "slice"
    edges = _edges(positions)
    figure = new_figure(7.6, 9.0)
    _strip(figure, pictures, positions, edges, unit="mm" if "mm" in label else "")
    _map(figure, heads.mean(0), edges, label)
    _received(figure, heads, positions, edges, label)
    figure.suptitle(f"Attention over slices, {_counted(number, 'slice')}, {_counted(len(heads), 'head')}", fontsize=11)
    return save(figure, out_png)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _edges(positions: Array) -> Array:
    """Borders between slices, half way; the outer ones as far out as the inner ones are in."""
    if len(positions) == 1:
        return np.array([positions[0] - 0.5, positions[0] + 0.5])
    middle = (positions[1:] + positions[:-1]) / 2
    return np.concatenate([[2 * positions[0] - middle[0]], middle, [2 * positions[-1] - middle[-1]]])


def _strip(figure: Any, pictures: Sequence[npt.NDArray[Any]], positions: Array, edges: Array, unit: str) -> None:
    """Thumbnails over the place on the axis that they show."""
    number = min(MOST_IN_STRIP, len(positions))
    centres = edges[0] + (np.arange(number) + 0.5) * (edges[-1] - edges[0]) / number
    width = WIDTH / number
    for place, centre in enumerate(centres):
        chosen = int(np.abs(positions - centre).argmin())
        axes = figure.add_axes((LEFT + place * width, 0.855, 0.96 * width, min(0.085, width * 7.6 / 9.0)))
        axes.imshow(grey_levels(pictures[chosen]), cmap="gray", vmin=0, vmax=1)
        axes.set_title(
            f"{positions[chosen]:.0f}".replace("-", "−") + (f" {unit}" if unit and number < 8 else ""),
            fontsize=7,
            pad=2,
        )
        axes.set_axis_off()


def _map(figure: Any, weights: Array, edges: Array, label: str) -> None:
    axes = figure.add_axes((LEFT, 0.27, WIDTH, 0.57))
    image = axes.pcolormesh(edges, edges, weights, cmap="cividis", vmin=0)
    axes.invert_yaxis()
    axes.set_ylabel(f"looking slice: {label}", fontsize=9)
    axes.tick_params(labelbottom=False)
    bar = figure.colorbar(image, cax=figure.add_axes((LEFT + WIDTH + 0.02, 0.27, 0.02, 0.57)))
    bar.set_label("attention, mean of the heads (a row sums to 1)", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _received(figure: Any, heads: Array, positions: Array, edges: Array, label: str) -> None:
    """Mean over the looking slices: which slices the volume's embedding listens to."""
    axes = figure.add_axes((LEFT, 0.07, WIDTH, 0.175))
    received = heads.mean(1)
    if 1 < len(received) <= MOST_HEADS:
        for place, values in enumerate(received):
            axes.plot(positions, values, color=PALETTE[place % len(PALETTE)], linewidth=0.9, label=f"head {place + 1}")
    mean = "mean of the heads" if len(received) > 1 else "attention"
    axes.plot(positions, received.mean(0), color="black", linewidth=2.2, marker="o", markersize=3, label=mean)
    axes.axhline(1 / len(positions), color=GREY, linestyle="--", linewidth=1, label="all slices alike")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"slice looked at: {label}", fontsize=9)
    axes.set_ylabel("mean received", fontsize=9)
    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.04), frameon=False, handlelength=1.2)
    axes.spines[["top", "right"]].set_visible(False)
