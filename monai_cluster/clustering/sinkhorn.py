# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Balanced soft assignment of samples to prototypes by Sinkhorn-Knopp (SwAV, arXiv:2006.09882, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .distributed import all_max_, all_sum_, world

__all__ = ["sinkhorn_knopp"]

# exp() keeps every entry, and every sum of up to e^16 scaled entries, a normal fp32 number up to this range of
# exponents.
MAX_EXPONENT_RANGE = 64.0
# Bytes of one block of rows: exponentials are made and summed while they are in a core's second-level cache.
BLOCK_BYTES = 1 << 20


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
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    with torch.autocast(scores.device.type, enabled=False):
        low, high, total = _range(scores, dtype, distributed)
        if total == 0:
            return scores.new_empty(scores.shape, dtype=dtype)
        if (high - low) / epsilon <= MAX_EXPONENT_RANGE:
            return _scale(scores, dtype, epsilon, iterations, high, total, distributed)
        return _scale_logarithms(scores, dtype, epsilon, iterations, high, total, distributed)


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


def _range(scores: Tensor, dtype: torch.dtype, distributed: bool | None) -> tuple[float, float, int]:
    """Smallest and largest score and the number of samples over all ranks, in one pass and one transfer."""
    extremes = scores.new_full((3,), -torch.inf, dtype=torch.float64)
    extremes[2] = 0.0
    if len(scores):
        low, high = torch.aminmax(scores)  # NaN wins in both
        pair = torch.stack([-low, high]).double()
        extremes[2] = (~pair.isfinite()).any()
        extremes[:2] = torch.where(extremes[2] > 0, -torch.inf, pair)
    all_max_(extremes, distributed)
    count = len(scores)
    if world(distributed)[1] > 1:
        count = int(all_sum_(torch.tensor(count, device=scores.device), distributed))
    negative_low, high_value, broken = extremes.tolist()
    if broken:
        rows = int((~scores.isfinite()).any(dim=1).sum())
        raise ValueError(
            f"scores must be finite, got NaN or infinity in {rows} of this rank's {len(scores)} rows (any rank's "
            "stop all): "
            "look for an exploding loss, or for embeddings of zero norm."
        )
    return -negative_low, high_value, count


def _blocks(scores: Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """Slices of rows that fit the cache; on an accelerator all rows at once, since each launch costs there."""
    rows, columns = scores.shape
    step = max(1, BLOCK_BYTES // (columns * dtype.itemsize)) if scores.device.type == "cpu" else max(1, rows)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _scale(
    scores: Tensor,
    dtype: torch.dtype,
    epsilon: float,
    iterations: int,
    high: float,
    total: int,
    distributed: bool | None,
) -> Tensor:
    """Exponentials are computed once and stay as they are; only their row and column factors are iterated.

    The sample step of one round and the sums for the next round's prototype step read a block while it is in the cache.
    """
    kernel = torch.empty(scores.shape, dtype=dtype, device=scores.device)
    mass = total / scores.shape[1]
    columns = kernel.new_zeros(scores.shape[1])
    for rows in _blocks(scores, dtype):
        block = kernel[rows].copy_(scores[rows]).sub_(high).div_(epsilon).exp_()
        columns += block.sum(dim=0)
    for _ in range(iterations - 1):
        factors = mass / all_sum_(columns, distributed)
        columns = torch.zeros_like(columns)
        for rows in _blocks(scores, dtype):
            block = kernel[rows]
            columns.addmv_(block.T, torch.mv(block, factors).reciprocal_())
    factors = mass / all_sum_(columns, distributed)
    for rows in _blocks(scores, dtype):
        block = kernel[rows].mul_(factors)
        block.div_(block.sum(dim=1, keepdim=True))
    return kernel


def _scale_logarithms(
    scores: Tensor,
    dtype: torch.dtype,
    epsilon: float,
    iterations: int,
    high: float,
    total: int,
    distributed: bool | None,
) -> Tensor:
    """The same rounds on the logarithms of the column factors; a sample step is then a softmax.

    No sum can vanish: after a prototype step each column holds mass 1, the sample step divides rows by at most K, so
    the next column sums are at least 1/K.
    """
    assignments = torch.empty(scores.shape, dtype=dtype, device=scores.device)

    def exponents(rows: slice) -> Tensor:
        return assignments[rows].copy_(scores[rows]).sub_(high).div_(epsilon)

    peaks = assignments.new_full((scores.shape[1],), -torch.inf)
    for rows in _blocks(scores, dtype):
        peaks = torch.maximum(peaks, exponents(rows).amax(dim=0))
    all_max_(peaks, distributed)
    columns = torch.zeros_like(peaks)
    for rows in _blocks(scores, dtype):
        columns += exponents(rows).sub_(peaks).exp_().sum(dim=0)
    mass = total / scores.shape[1]
    logarithms = -peaks + (mass / all_sum_(columns, distributed)).log()
    for iteration in range(iterations):
        if iteration:
            logarithms += (mass / all_sum_(columns, distributed)).log()
        columns = torch.zeros_like(columns)
        for rows in _blocks(scores, dtype):
            block = exponents(rows).add_(logarithms)
            columns += torch.softmax(block, dim=1, out=block).sum(dim=0)
    return assignments
