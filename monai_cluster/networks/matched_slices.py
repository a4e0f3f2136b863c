# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Slices that two views of a volume both show."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["match_slices"]


def match_slices(first: Tensor, second: Tensor, number: int) -> tuple[Tensor, Tensor] | None:
    """Find slices by their index in the source volume, since a flipped view holds them in another order.

    Args:
        first: int64 ``B S``, source indices of one view's slices, -1 where padded.
        second: int64 ``B T``, of the other view's.
        number: how many to choose per volume, spread evenly over those that match; fewer where a volume has fewer.

    Returns:
        places ``B n`` in the first view and ``B n`` in the second, the same n for all volumes; None if some volume's
        views share no slice.
    """
    same = (first[:, :, None] == second[:, None, :]) & (first >= 0)[:, :, None]
    matched = same.any(dim=2)
    counts = matched.sum(dim=1)
    number = min(number, int(counts.min()))
    if number < 1:
        return None
    steps = torch.arange(number, device=first.device)
    ranks = ((2 * steps + 1) * counts[:, None]).div(2 * number, rounding_mode="floor")
    # Matched slices to the front in their own order, then those at the chosen ranks.
    places = (~matched).byte().argsort(dim=1, stable=True).gather(1, ranks)
    partners = same.byte().argmax(dim=2).gather(1, places)
    return places, partners
