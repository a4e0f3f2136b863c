# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Criteria of joint pretraining: a pure function beside each thin module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .deep_cluster import DeepClusterLoss as DeepClusterLoss
    from .deep_cluster import deep_cluster_loss as deep_cluster_loss
    from .masked_slice import MaskedSliceLoss as MaskedSliceLoss
    from .masked_slice import masked_slice_loss as masked_slice_loss
    from .swapped_prediction import SwappedPredictionLoss as SwappedPredictionLoss
    from .swapped_prediction import swapped_prediction_loss as swapped_prediction_loss

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "deep_cluster": ["DeepClusterLoss", "deep_cluster_loss"],
        "masked_slice": ["MaskedSliceLoss", "masked_slice_loss"],
        "swapped_prediction": ["SwappedPredictionLoss", "swapped_prediction_loss"],
    },
)
