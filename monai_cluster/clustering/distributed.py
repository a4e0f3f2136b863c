# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The four collective operations that clustering needs; each is the identity in a single process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["all_gather_rows", "all_max_", "all_sum_", "share_of_rows", "world"]


def world(distributed: bool | None = None) -> tuple[int, int]:
    """This process's rank and the number of ranks to work with.

    Args:
        distributed: None uses all ranks where ``torch.distributed`` is initialised; False works alone; True insists.

    Returns:
        ``(rank, world_size)``, ``(0, 1)`` when working alone.

    Raises:
        ValueError: if ``distributed`` is True and no process group is initialised.
    """
    ready = dist.is_available() and dist.is_initialized()
    if distributed and not ready:
        raise ValueError(
            "distributed=True needs an initialised process group, got none: call torch.distributed.init_process_group "
            "first (torchrun does not do it), or pass distributed=None."
        )
    if not ready or distributed is False:
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def all_sum_(values: Tensor, distributed: bool | None = None) -> Tensor:
    """Replace ``values`` by their sum over all ranks, the same bits on each; returns ``values``."""
    if world(distributed)[1] > 1:
        dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


def all_max_(values: Tensor, distributed: bool | None = None) -> Tensor:
    """Replace ``values`` by their maximum over all ranks; returns ``values``. Must not hold NaN: backends lose it."""
    if world(distributed)[1] > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def all_gather_rows(rows: Tensor, distributed: bool | None = None) -> Tensor:
    """Concatenate the rows of all ranks in rank order; ranks may hold different numbers of rows, none included.

    Args:
        rows: ``n ...``, equal on all ranks but for n.
        distributed: see :func:`world`.

    Returns:
        ``sum(n) ...``, the same on every rank, without gradient.
    """
    rows = rows.detach()
    size = world(distributed)[1]
    if size == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(size)]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    numbers = [int(count) for count in counts]
    padded = rows.new_zeros((max(numbers), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:number] for part, number in zip(parts, numbers, strict=True)])


def share_of_rows(rows: Tensor, distributed: bool | None = None) -> Tensor:
    """This rank's part of rows that every rank holds: every ``world_size``-th one, a view."""
    rank, size = world(distributed)
    return rows[rank::size]
