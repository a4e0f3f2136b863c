# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Nearest neighbours in the embedding, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .picture_style import BLUE, VERMILLION, grey_levels, new_figure, save, shortened

__all__ = ["draw_neighbours"]


def draw_neighbours(
    images: Sequence[npt.NDArray[Any]],
    embeddings: Any,
    sources: Sequence[Any],
    out_png: str | Path,
    num_queries: int = 8,
    num_neighbours: int = 6,
) -> Path:
    """Draw a few samples, each with its nearest others by cosine similarity.

    Queries are taken evenly from all sources. A blue frame means the same source or label as the query's, an orange one
    another.

    Args:
        images: N pictures ``H W`` as they are to be seen (row 0 on top), of any sizes.
        embeddings: ``N D``.
        sources: N sources or labels.
        out_png: the picture.
        num_queries: rows.
        num_neighbours: columns after the query.

    Returns:
        The picture's path.

    Raises:
        ValueError: for unequal lengths, fewer than two samples, or a picture that is not ``H W``.
    """
    table, names = np.asarray(embeddings, np.float64), [str(source) for source in sources]
    _check(images, table, names)
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")
    columns = min(num_neighbours, len(images) - 1)
    queries = _spread_queries(names, min(num_queries, len(images)))
    cells = 1.25 * (columns + 1)
    figure = new_figure(max(cells + 0.4, 6.4), 1.52 * len(queries) + 0.8)  # wide enough for the title
    side = (1 - cells / figure.get_figwidth()) / 2
    top = 1 - 0.8 / figure.get_figheight()
    grid = figure.add_gridspec(
        len(queries), columns + 1, left=side, right=1 - side, bottom=0.02, top=top, wspace=0.08, hspace=0.27
    )
    for row, query in enumerate(queries):
        axes = figure.add_subplot(grid[row, 0])
        _show(axes, images[query], "query", names[query], "black")
        for column, other in enumerate(order[query, :columns], start=1):
            axes = figure.add_subplot(grid[row, column])
            frame = BLUE if names[other] == names[query] else VERMILLION
            _show(axes, images[other], f"{similarity[query, other]:.2f}", names[other], frame)
    same = np.mean([names[other] == names[query] for query in range(len(images)) for other in order[query, :columns]])
    figure.suptitle(
        f"Nearest neighbours by cosine similarity, n = {len(images)}\n"
        f"blue: same source as the query, orange: another; same for {same:.0%} of all samples' {columns} nearest",
        fontsize=8.5,
        y=1 - 0.06 / figure.get_figheight(),
        va="top",
    )
    return save(figure, out_png)


def _show(axes: Any, picture: npt.NDArray[Any], first: str, source: str, frame: str) -> None:
    axes.imshow(grey_levels(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(f"{first}\n{shortened(source, 17)}", fontsize=6.5, pad=2.5)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor(frame)
        spine.set_linewidth(2)


def _spread_queries(names: Sequence[str], number: int) -> list[int]:
    """Places of the queries: one of each source in turn, then a second, until there are enough; sorted by source."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    # From each source evenly spread candidates, so that two queries are not slices of one volume.
    candidates = {
        name: [found[index] for index in np.unique(np.linspace(0, len(found) - 1, number).astype(int))]
        for name, found in places.items()
    }
    chosen: list[int] = []
    depth = 0
    while len(chosen) < number:
        for name in sorted(candidates):
            if depth < len(candidates[name]) and len(chosen) < number:
                chosen.append(candidates[name][depth])
        depth += 1
    return sorted(chosen, key=lambda place: (names[place], place))


def _check(images: Sequence[npt.NDArray[Any]], table: npt.NDArray[Any], names: Sequence[str]) -> None:
    if table.ndim != 2 or not len(images) == len(table) == len(names):
        raise ValueError(
            f"one picture, one embedding row and one source per sample are needed, got {len(images)} pictures, "
            f"embeddings of shape {table.shape} and {len(names)} sources."
        )
    if len(images) < 2:
        raise ValueError(f"neighbours need at least two samples, got {len(images)}.")
    shapes = [np.shape(picture) for picture in images if np.ndim(picture) != 2]
    if shapes:
        raise ValueError(f"pictures must be H W, got shape {shapes[0]}: choose one channel and one slice.")
