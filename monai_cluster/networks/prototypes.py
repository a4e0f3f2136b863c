# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Prototypes: the cluster centres that embeddings are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import unit_length

__all__ = ["Prototypes", "auto_num_prototypes"]


def auto_num_prototypes(num_samples: int) -> int:
    """A number of prototypes for so many independent samples: 3000 above 100,000, else one per 75 and 64 at least.

    Below 128 samples it is half of them. The floor was measured: on a few hundred images 8 and 14 prototypes ended in
    uniform predictions, 64 did not.

    Neighbouring slices are near duplicates: count volumes times the slices that are kept after thinning.

    Args:
        num_samples: independent images or slices.

    Raises:
        ValueError: for less than one sample.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    return 3000 if num_samples > 100_000 else max(min(64, max(2, num_samples // 2)), round(num_samples / 75))


class Prototypes(nn.Module):
    """Unit-length prototypes of one or several heads; scores are cosine similarities (arXiv:2006.09882, section 3.1).

    Args:
        dim: D of the embeddings.
        num_prototypes: K, or one K per head.

    Raises:
        ValueError: if a size is below 1.
    """

    def __init__(self, dim: int, num_prototypes: int | Sequence[int]) -> None:
        super().__init__()
        sizes = (num_prototypes,) if isinstance(num_prototypes, int) else tuple(num_prototypes)
        if dim < 1 or not sizes or min(sizes) < 1:
            raise ValueError(f"dim and every num_prototypes must be at least 1, got {dim} and {num_prototypes}.")
        self.dim, self.num_prototypes = dim, sizes
        self.weight = nn.Parameter(F.normalize(torch.randn(sum(sizes), dim), dim=1))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Cosine similarities ``... K`` of embeddings ``... D``, in fp32 or better also under autocast."""
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = unit_length(embeddings)
            return F.linear(embeddings, unit_length(self.weight).to(embeddings.dtype))

    @torch.no_grad()
    def normalize_(self) -> None:
        """Bring every prototype back to unit length, in place."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    @torch.no_grad()
    def set_head(self, head: int, centroids: Tensor) -> None:
        """Replace one head's prototypes, as DeepCluster-v2 does after clustering.

        Args:
            head: which head, from 0.
            centroids: ``K D`` of that head; brought to unit length.

        Raises:
            ValueError: if there is no such head or the shape is wrong.
        """
        if not 0 <= head < len(self.num_prototypes):
            raise ValueError(f"head must be one of 0..{len(self.num_prototypes) - 1}, got {head}.")
        if centroids.shape != (self.num_prototypes[head], self.dim):
            raise ValueError(
                f"head {head} needs centroids {self.num_prototypes[head]} {self.dim}, got {tuple(centroids.shape)}: "
                "give the criterion and the prototypes the same num_prototypes."
            )
        start = sum(self.num_prototypes[:head])
        self.weight[start : start + len(centroids)] = F.normalize(centroids, dim=1).to(self.weight)
