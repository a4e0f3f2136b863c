# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""MONAI's RetinaNet on our pyramids, and the focal loss as its paper sums it."""

from __future__ import annotations

from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.losses import FocalLoss
from torch import Tensor, nn

from .feature_pyramid import InflatedPyramidExtractor, SlicePyramidExtractor, StackedPyramidExtractor

__all__ = ["ClusterRetinaNet", "Extractor", "FocalLossPerPositive"]

Extractor = SlicePyramidExtractor | InflatedPyramidExtractor | StackedPyramidExtractor


class FocalLossPerPositive(nn.Module):
    """Focal loss summed over anchors and classes, divided by the number of positive anchors (Lin et al. 2017,
    arXiv:1708.02002, section 4.1).

    Its mean over all anchors, nearly all of which are easy background, would be thousands of times smaller than the
    box loss.

    Args:
        gamma: how little easy anchors count; 0 gives cross-entropy.
        alpha: weight of positives, ``1 − alpha`` of negatives; None weighs both alike.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.25) -> None:
        super().__init__()
        # Not its own "sum": for N K logits MONAI 1.6 takes the mean there.
        self.loss = FocalLoss(gamma=gamma, alpha=alpha, reduction="none")

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar from logits ``N K`` and 0/1 targets ``N K``."""
        total: Tensor = self.loss(logits, targets).sum()
        return total / targets.sum().clamp(min=1)


class ClusterRetinaNet(RetinaNet):
    """MONAI's RetinaNet with outputs in float32.

    Anchors take the outputs' type, and bfloat16 counts pixels above 256 in steps of two.

    Args:
        extractor: the feature pyramid.
        num_classes: without background.
        num_anchors: per cell.
    """

    def __init__(self, extractor: Extractor, num_classes: int, num_anchors: int) -> None:
        super().__init__(
            extractor.spatial_dims, num_classes, num_anchors, extractor, size_divisible=extractor.size_divisible
        )

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        """Maps of class logits and box offsets per level, from ``B C H W`` or ``B C H W S``."""
        outputs: dict[str, list[Tensor]] = super().forward(images)
        return {key: [level.float() for level in levels] for key, levels in outputs.items()}
