# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A two-dimensional map of embeddings, coloured by category."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .picture_style import category_styles, new_figure, save, shortened

__all__ = ["draw_embedding_map"]

Array = npt.NDArray[np.float64]
FEWEST_FOR_TSNE = 5
MOST_IN_LEGEND = 40


def draw_embedding_map(
    embeddings: Any, categories: Sequence[Any], out_png: str | Path, method: Literal["pca", "tsne"] = "pca"
) -> Path:
    """Draw one point per sample.

    Args:
        embeddings: ``N D``.
        categories: N sources or labels; numbers and text alike.
        out_png: the picture.
        method: ``"pca"``, the two directions of greatest variance, or ``"tsne"``, which keeps neighbourhoods and not
            distances (fewer than five samples are drawn by PCA).

    Returns:
        The picture's path.

    Raises:
        ValueError: for unequal lengths, no sample, or an unknown method.
    """
    table, names = np.asarray(embeddings, np.float64), [str(item) or "unknown" for item in categories]
    if table.ndim != 2 or len(table) != len(names) or not len(table):
        raise ValueError(
            f"embeddings N D and N categories with N at least 1 are needed, got {table.shape} and {len(names)}."
        )
    if method not in ("pca", "tsne"):
        raise ValueError(f"method must be 'pca' or 'tsne', got {method!r}.")
    used = "pca" if len(table) < FEWEST_FOR_TSNE else method
    places, labels, title = _tsne(table) if used == "tsne" else _pca(table)
    counts = Counter(names)
    kinds = sorted(counts, key=_natural)
    columns = 1 + (min(len(kinds), MOST_IN_LEGEND) - 1) // 20
    figure = new_figure(6.2 + 2.1 * columns, 5.2)
    axes = figure.add_subplot()
    for name, style in category_styles(kinds).items():
        chosen = np.array([item == name for item in names])
        label = f"{shortened(name, 24)} ({counts[name]})"
        axes.scatter(
            places[chosen, 0],
            places[chosen, 1],
            s=22,
            alpha=0.8,
            linewidths=0.3,
            edgecolors="white",
            label=label,
            **style,
        )
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(f"{title}, n = {len(table)}", fontsize=11)
    axes.margins(0.06)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    handles, texts = axes.get_legend_handles_labels()
    if len(texts) > MOST_IN_LEGEND:
        axes.plot([], [], " ")
        texts = [*texts[: MOST_IN_LEGEND - 1], f"and {len(texts) - MOST_IN_LEGEND + 1} more"]
        handles = [*handles[: MOST_IN_LEGEND - 1], axes.lines[0]]
    axes.legend(
        handles, texts, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False, ncols=columns,
        title="category (samples)", title_fontsize=8, alignment="left",
    )  # fmt: skip
    figure.set_layout_engine("constrained")
    return save(figure, out_png)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2 before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _pca(table: Array) -> tuple[Array, tuple[str, str], str]:
    centred = table - table.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(table), 2))
    kept = min(2, len(values))
    # The sign of a direction is arbitrary: make its largest entry positive, so that the picture is the same everywhere.
    signs = np.sign(directions[np.arange(kept), np.abs(directions[:kept]).argmax(1)])
    places[:, :kept] = centred @ (directions[:kept] * signs[:, None]).T
    shares = np.zeros(2)
    if values[0] > 1e-12:
        shares[:kept] = (values**2 / (values**2).sum())[:kept]
    labels = (f"principal component 1 ({shares[0]:.0%} of variance)", f"principal component 2 ({shares[1]:.0%})")
    return places, labels, "Embeddings by principal components"


def _tsne(table: Array) -> tuple[Array, tuple[str, str], str]:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(table) - 1) / 3)
    spread = float(table.std())
    start: Any = "pca" if spread > 1e-12 and min(table.shape) >= 2 else "random"
    model = TSNE(2, perplexity=perplexity, metric="cosine", init=start, random_state=0)
    places: Array = np.asarray(model.fit_transform(table), np.float64)
    title = f"Embeddings by t-SNE (cosine, perplexity {perplexity:.0f})"
    return places, ("t-SNE axis 1 (no unit)", "t-SNE axis 2 (no unit)"), title
