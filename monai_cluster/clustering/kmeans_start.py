# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Starting centroids of k-means, chosen among rows that are split over ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from .distributed import all_gather_rows, all_sum_, world

__all__ = ["choose_rows", "plus_plus_rows"]


def choose_rows(rows: Tensor, number: int, generator: torch.Generator, distributed: bool | None = None) -> Tensor:
    """``K D``: different rows at random; ranks count as if their rows were joined in rank order.

    Args:
        rows: ``N D``, this rank's rows.
        number: K, at most the rows of all ranks.
        generator: CPU generator, in the same state on every rank.
        distributed: see :func:`~monai_cluster.clustering.distributed.world`.
    """
    first, total = _place(rows, distributed)
    chosen = torch.randperm(total, generator=generator)[:number].to(rows.device)
    mine = (chosen >= first) & (chosen < first + len(rows))
    found = rows.new_zeros(number, rows.shape[1])
    found[mine] = rows[chosen[mine] - first]
    return all_sum_(found, distributed)


def plus_plus_rows(rows: Tensor, number: int, generator: torch.Generator, distributed: bool | None = None) -> Tensor:
    """``K D``: k-means++ seeds, each drawn with probability in proportion to ``1 - cos`` to the nearest seed before.

    For unit vectors that is half the squared distance (Arthur & Vassilvitskii, 2007). Costs K passes over the rows.

    Args:
        rows: ``N D``, this rank's rows, unit norm.
        number: K.
        generator: CPU generator, in the same state on every rank.
        distributed: see :func:`~monai_cluster.clustering.distributed.world`.
    """
    rank, _ = world(distributed)
    draws = torch.rand(number, generator=generator, dtype=torch.float64).tolist()
    seeds = rows.new_empty(number, rows.shape[1])
    distance = torch.ones(len(rows), dtype=rows.dtype, device=rows.device)
    taken = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for place, draw in enumerate(draws):
        cumulative = distance.double().cumsum(0)
        sums = all_gather_rows(cumulative[-1:] if len(rows) else cumulative.new_zeros(1), distributed)
        if not float(sums.sum()) > 0:  # only copies of seeds are left: any row that is not one yet
            distance = (~taken).to(rows.dtype)
            cumulative = distance.double().cumsum(0)
            sums = all_gather_rows(cumulative[-1:] if len(rows) else cumulative.new_zeros(1), distributed)
        goal, owner = draw * float(sums.sum()), 0
        ends = sums.cumsum(0).tolist()
        while owner + 1 < len(ends) and ends[owner] <= goal:
            owner += 1
        seed = rows.new_zeros(rows.shape[1])
        if owner == rank:
            before = ends[owner - 1] if owner else 0.0
            found = int(torch.searchsorted(cumulative, goal - before, right=True).clamp_max(len(rows) - 1))
            seed, taken[found] = rows[found].clone(), True
        seeds[place] = all_sum_(seed, distributed)
        nearest = (1 - rows @ seeds[place]).clamp_min(0)
        distance = (torch.minimum(distance, nearest) if place else nearest).masked_fill_(taken, 0)
    return seeds


def _place(rows: Tensor, distributed: bool | None) -> tuple[int, int]:
    """Index of this rank's first row among all, and the number of all."""
    rank, _ = world(distributed)
    counts = all_gather_rows(torch.tensor([len(rows)], device=rows.device), distributed).tolist()
    return sum(counts[:rank]), sum(counts)
