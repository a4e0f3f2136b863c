# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From features to embeddings and scores: projector, optional centring, prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from monai_cluster.clustering.distributed import all_sum_
from monai_cluster.outputs import ClusterOutput

from .precision import unit_length
from .prototypes import Prototypes

__all__ = ["ClusterHead", "ProjectionHead", "RunningCenter"]


class ProjectionHead(nn.Sequential):
    """Linear layers with batch norm and ReLU between them; the output is not of unit length.

    With a ResNet-50's 2048 features the defaults are SwAV's 2048-2048-128 (input, hidden, output; arXiv:2006.09882).

    Args:
        in_dim: F of the features.
        hidden_dim: width between the layers.
        out_dim: D of the embeddings.
        num_layers: linear layers, 1 for a plain projection.
        normalize_output: batch norm without weights after the last layer, as in SimSiam and MoCo v3: embeddings then
            cannot shrink to one point, which short runs with small batches tend to. SwAV has none.

    Raises:
        ValueError: for less than one layer.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int = 2048,
        out_dim: int = 128,
        num_layers: int = 2,
        normalize_output: bool = False,
    ) -> None:
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}.")
        widths = [in_dim] + [hidden_dim] * (num_layers - 1)
        layers: list[nn.Module] = []
        for wide_in, wide_out in pairwise(widths):
            layers += [nn.Linear(wide_in, wide_out), nn.BatchNorm1d(wide_out), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(widths[-1], out_dim))
        if normalize_output:
            layers.append(nn.BatchNorm1d(out_dim, affine=False))
        super().__init__(*layers)
        self.in_dim, self.out_dim = in_dim, out_dim


class RunningCenter(nn.Module):
    """Subtract a running mean of what came before this batch, then bring rows back to unit length.

    The present batch does not take part, or two views of a single volume would be made opposites. The mean of all
    ranks' rows is exact for the first ``1 / (1 − momentum)`` batches and decays afterwards; before the first batch it
    is zero.

    Args:
        dim: D of the embeddings.
        momentum: how much of the mean stays at each batch.

    Raises:
        ValueError: if ``momentum`` is not in [0, 1).
    """

    mean: Tensor
    num_batches: Tensor

    def __init__(self, dim: int, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}.")
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Centred unit-length rows ``N D`` of unit-length rows ``N D``."""
        centred = unit_length(embeddings - self.mean.to(embeddings.dtype))
        if self.training:
            self._update(embeddings.detach())
        return centred

    @torch.no_grad()
    def _update(self, embeddings: Tensor) -> None:
        total = torch.cat([embeddings.sum(dim=0), embeddings.new_tensor([len(embeddings)])])
        total = all_sum_(total).to(self.mean.dtype)
        self.num_batches += 1
        rate = (1.0 / self.num_batches).clamp(min=1 - self.momentum)
        self.mean.lerp_(total[:-1] / total[-1], rate.to(self.mean.dtype))


class ClusterHead(nn.Module):
    """Turn a stream's features into a :class:`ClusterOutput`.

    Args:
        projector: maps features to embeddings; None clusters the features as they are.
        prototypes: the cluster centres.
        center: remove the running mean before clustering; for volumes, whose embeddings are nearly parallel.
        momentum: of that mean.

    Raises:
        ValueError: if projector and prototypes differ in dimension, or for a momentum outside [0, 1).
    """

    def __init__(
        self, projector: nn.Module | None, prototypes: Prototypes, center: bool = False, momentum: float = 0.99
    ) -> None:
        super().__init__()
        out_dim = getattr(projector, "out_dim", prototypes.dim)
        if out_dim != prototypes.dim:
            raise ValueError(
                f"the projector gives {out_dim} dimensions and the prototypes have {prototypes.dim}: make them equal."
            )
        self.projector, self.prototypes = projector, prototypes
        self.center = RunningCenter(prototypes.dim, momentum) if center else None

    @property
    def in_dim(self) -> int | None:
        """F that the head needs, where it is known."""
        return self.prototypes.dim if self.projector is None else getattr(self.projector, "in_dim", None)

    def forward(self, views: Sequence[Tensor]) -> ClusterOutput:
        """Embeddings and scores.

        Args:
            views: V features ``B F``, the global views first; batch norm and centring see all views together.

        Returns:
            embeddings ``V B D`` and scores ``V B K`` in fp32 or better, also under autocast, and the prototypes
            ``K D`` without gradient.
        """
        features = torch.cat(list(views))
        if self.projector is not None:
            features = self.projector(features)
        embeddings = unit_length(features)
        if self.center is not None:
            embeddings = self.center(embeddings)
        embeddings = embeddings.view(len(views), -1, embeddings.shape[-1])
        return ClusterOutput(embeddings, self.prototypes(embeddings), unit_length(self.prototypes.weight.detach()))
