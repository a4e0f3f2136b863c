# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Padded slices: where they may be, and means that never see them."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import at_least_fp32, unit_length
from .recording import is_recording

__all__ = ["check_slices", "unit_mean", "without_padding"]


def check_slices(slices: Tensor, padded: Tensor | None, position_mm: Tensor | None, dim: int | None = None) -> None:
    """Refuse what would silently be aggregated wrongly.

    Padding stands at the end of a volume: then a volume alone and the same volume in a longer batch have the same
    neighbourhoods. Looking at the mask's values costs one synchronisation on a GPU, per aggregator and not per layer.

    Args:
        slices: ``B S F``.
        padded: bool ``B S``, True where there is no slice.
        position_mm: ``B S``.
        dim: the F that is needed.

    Raises:
        ValueError: if shapes disagree, padding stands before or between slices, or a volume has no slice at all.
        TypeError: if ``padded`` is not boolean.

    TorchScript checks nothing, and where operations are recorded for an export the mask's values are not looked at.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _check(slices, padded, position_mm, dim)


def _check(slices: Tensor, padded: Tensor | None, position_mm: Tensor | None, dim: int | None) -> None:
    if slices.ndim != 3 or slices.shape[1] < 1 or (dim is not None and slices.shape[2] != dim):
        raise ValueError(f"slices must be B S F with S >= 1 and F = {dim or 'any'}, got {tuple(slices.shape)}.")
    for name, value in (("padded", padded), ("position_mm", position_mm)):
        if value is not None and value.shape != slices.shape[:2]:
            raise ValueError(f"{name} must be B S = {tuple(slices.shape[:2])}, got {tuple(value.shape)}.")
    if padded is None:
        return
    if padded.dtype.is_floating_point or padded.dtype.is_complex or padded.dtype.itemsize > 1:
        raise TypeError(f"padded must be boolean with True where there is no slice, got {padded.dtype}.")
    if is_recording():
        return
    if bool((padded[:, 0] | (padded[:, :-1] & ~padded[:, 1:]).any(dim=1)).any()):
        raise ValueError(
            "padding must stand at the end of a volume, after at least one slice, got padding before or between "
            "slices: move the real slices to the front."
        )


def without_padding(slices: Tensor, padded: Tensor | None) -> Tensor:
    """``B S F`` with zeros (whatever stood there, NaN included) on padded slices."""
    return slices if padded is None else slices.masked_fill(padded[..., None], 0)


def unit_mean(tokens: Tensor, padded: Tensor | None) -> Tensor:
    """Mean over the real slices, at unit length in fp32 or better: ``B F`` from ``B S F``."""
    total = at_least_fp32(without_padding(tokens, padded)).sum(dim=1)
    return unit_length(total)  # the number of slices divides out
