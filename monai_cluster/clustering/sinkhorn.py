# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Balanced soft assignment of samples to prototypes by Sinkhorn-Knopp (SwAV, arXiv:2006.09882, section 3.1)."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from .distributed import all_max_, all_sum_, world

__all__ = ["sinkhorn_knopp"]

# exp() keeps every entry, and every sum of up to e^16 scaled entries, a normal fp32 number up to this range of
# exponents.
MAX_EXPONENT_RANGE = 64.0
# Bytes of one block of rows: exponentials are made and summed while they are in a core's second-level cache.
BLOCK_BYTES = 2 << 20


@torch.no_grad()
def sinkhorn_knopp(
    scores: Tensor, epsilon: float = 0.05, iterations: int = 3, *, distributed: bool | None = None
) -> Tensor:
    """Soft assignments that use all prototypes equally: entropic optimal transport from samples to prototypes.

    One iteration gives each prototype the same mass, then each sample. The sample step is last, so the rows of the
    result sum to 1 exactly and the columns to B/K approximately. Computed in fp32 (fp64 for fp64 input) whatever the
    input's type and any autocast. Where exp(scores / epsilon) would leave fp32's range, the same iterations run in
    the log domain, so the result is finite and accurate for any epsilon.

    Args:
        scores: ``B K``, similarity of each sample of this rank to each prototype. B may differ between ranks.
        epsilon: strength of the entropy term; smaller gives sharper assignments.
        iterations: rounds; 3 in SwAV. More is not better on imbalanced data: balance is then bought with wrong
            assignments.
        distributed: sum over all ranks. None does so where ``torch.distributed`` is initialised.

    Returns:
        ``B K``, fp32 or fp64, rows sum to 1, no gradient.

    Raises:
        TypeError: if the scores are no floating-point tensor.
        ValueError: if ``scores`` is not ``B K`` with K ≥ 1, holds NaN or infinity on any rank, or a parameter is out
            of range.
    """
    _check(scores, epsilon, iterations)
    scores = scores.detach()
    device = scores.device.type
    # entering autocast costs as much as a small problem, so only where there is one to leave
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        low, high, total = _range(scores, distributed)
        if not total:
            return torch.empty_like(scores, dtype=_layout(scores)[0])
        mass = total / scores.shape[1]
        if (high - low) / epsilon <= MAX_EXPONENT_RANGE:
            return _scale(scores, epsilon, iterations, high, mass, distributed)
        return _scale_logarithms(scores, epsilon, iterations, mass, distributed)


def _check(scores: Tensor, epsilon: float, iterations: int) -> None:
    if not scores.is_floating_point():
        raise TypeError(f"scores must be a floating-point tensor, got {scores.dtype}: pass similarities, not labels.")
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(
            f"scores must be B K with at least one prototype, got shape {tuple(scores.shape)}: call once for each view."
        )
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}; SwAV uses 0.05.")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}: without any, no row would sum to 1.")


def _range(scores: Tensor, distributed: bool | None) -> tuple[float, float, int]:
    """Smallest and largest score and the number of samples over all ranks, in one pass."""
    low, high, count = math.inf, -math.inf, len(scores)
    if count:
        low, high = (float(value) for value in torch.aminmax(scores))  # NaN wins in both
    broken = bool(count) and not math.isfinite(high - low)
    if world(distributed)[1] > 1:
        extremes = (-math.inf, -math.inf, 1.0) if broken else (-low, high, 0.0)
        shared = all_max_(torch.tensor(extremes, dtype=torch.float64, device=scores.device), distributed).tolist()
        low, high, broken = -shared[0], shared[1], bool(shared[2])
        count = int(all_sum_(torch.tensor(count, device=scores.device), distributed))
    if broken:
        rows = int((~scores.isfinite()).any(dim=1).sum())
        raise ValueError(
            f"scores must be finite, got NaN or infinity in {rows} of this rank's {len(scores)} rows (one rank's stop "
            "all): look for an exploding loss, or for embeddings of zero norm."
        )
    return low, high, count


def _scale(
    scores: Tensor, epsilon: float, iterations: int, high: float, mass: float, distributed: bool | None
) -> Tensor:
    """Exponentials are computed once and stay as they are; only their row and column factors are iterated.

    The sample step of one round and the sums for the next prototype step read a block while it is in the cache.
    """
    dtype, step = _layout(scores)
    assignments = torch.empty_like(scores, dtype=dtype, memory_format=torch.contiguous_format)
    shift = torch.tensor(-high / epsilon, dtype=dtype, device=scores.device)
    blocks = _blocks(assignments, step)
    sums = []
    for block, raw in zip(blocks, _blocks(scores, step), strict=True):
        torch.add(shift, raw.to(dtype), alpha=1 / epsilon, out=block).exp_()
        sums.append(block.sum(dim=0))
    columns = _total(sums, distributed)
    for _ in range(iterations - 1):
        factors, columns = columns.reciprocal_(), torch.empty_like(columns)
        for place, block in enumerate(blocks):
            scaled = torch.mv(block, factors).reciprocal_()
            columns.addmv_(block.T, scaled, beta=min(place, 1), alpha=1 / mass)
        all_sum_(columns, distributed)
    factors = columns.reciprocal_()
    for block in blocks:
        block.mul_(factors)
        block.div_(block.sum(dim=1, keepdim=True))
    return assignments


def _scale_logarithms(scores: Tensor, epsilon: float, iterations: int, mass: float, distributed: bool | None) -> Tensor:
    """The same rounds on the logarithms of the column factors; a sample step is then a softmax.

    No sum can vanish: after a prototype step each column holds mass 1, the sample step divides rows by at most K, so
    the next column sums are at least 1/K. Exponents stop at a floor that changes no sum, since exp() is a hundred times
    slower where its result is denormal.
    """
    dtype, step = _layout(scores)
    floor = 0.9 * math.log(torch.finfo(dtype).tiny)
    assignments = torch.empty_like(scores, dtype=dtype, memory_format=torch.contiguous_format)
    pairs = list(zip(_blocks(assignments, step), _blocks(scores, step), strict=True))
    # a rank without samples joins in with what cannot be a maximum
    peaks = scores.amax(dim=0).to(dtype) if len(scores) else assignments.new_full((scores.shape[1],), -torch.inf)
    logarithms = all_max_(peaks, distributed).div_(-epsilon)
    sums = []
    for block, raw in pairs:
        torch.add(logarithms, raw.to(dtype), alpha=1 / epsilon, out=block)
        sums.append(block.clamp_min_(floor).exp_().sum(dim=0))
    logarithms -= _total(sums, distributed).log_()
    for iteration in range(iterations):
        if iteration:
            logarithms -= _total(sums, distributed).div_(mass).log_()
        sums = []
        for block, raw in pairs:
            torch.add(logarithms, raw.to(dtype), alpha=1 / epsilon, out=block)
            block.sub_(block.amax(dim=1, keepdim=True)).clamp_min_(floor).exp_()
            sums.append(block.div_(block.sum(dim=1, keepdim=True)).sum(dim=0))
    return assignments


def _layout(scores: Tensor) -> tuple[torch.dtype, int]:
    """Type to compute in, and rows that fit the cache; an accelerator takes all at once, since each launch costs."""
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    fitting = BLOCK_BYTES // (scores.shape[1] * dtype.itemsize)
    return dtype, max(1, fitting if scores.device.type == "cpu" else len(scores))


def _blocks(rows: Tensor, step: int) -> tuple[Tensor, ...]:
    return (rows,) if len(rows) <= step else torch.split(rows, step)


def _total(sums: list[Tensor], distributed: bool | None) -> Tensor:
    """Sum over blocks and ranks."""
    return all_sum_(torch.stack(sums).sum(dim=0) if len(sums) > 1 else sums[0], distributed)
