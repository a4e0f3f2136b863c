# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The encoded slices of several views, with padding where a view has fewer."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["EncodedSlices", "check_volume", "spread_rows"]


class EncodedSlices(NamedTuple):
    """Slices of V views of B volumes, views first, padded at the end to the longest view: ``V·B S ...``."""

    features: Tensor
    embedding: Tensor
    padded: Tensor
    position_mm: Tensor | None

    @property
    def mask(self) -> Tensor | None:
        """The padding, or None where there is none: attention is cheaper without."""
        return self.padded if bool(self.padded.any()) else None


def check_volume(x: Tensor, padded: Tensor | None) -> None:
    """Refuse what is no batch of volumes ``B C H W S`` with padding ``B S``.

    Raises:
        ValueError: if shapes are wrong or disagree.
    """
    if x.ndim != 5:
        raise ValueError(f"volumes must be B C H W S (slice axis last), got {tuple(x.shape)}.")
    if padded is not None and tuple(padded.shape) != (x.shape[0], x.shape[-1]):
        raise ValueError(f"padded must be B S = {(x.shape[0], x.shape[-1])}, got {tuple(padded.shape)}.")


def spread_rows(values: Tensor, real: Tensor) -> Tensor:
    """Rows ``n F`` put where ``real`` (``B S``) is True, zeros elsewhere: ``B S F``."""
    return values.new_zeros(*real.shape, values.shape[-1]).masked_scatter(real[..., None], values)
