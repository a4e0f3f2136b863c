# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The training step, and nothing else: every rule around it is a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .cluster_trainer import ClusterTrainer as ClusterTrainer
    from .finetune_evaluator import FinetuneEvaluator as FinetuneEvaluator
    from .finetune_trainer import FinetuneTrainer as FinetuneTrainer
    from .finetune_trainer import prepare_detection_batch as prepare_detection_batch
    from .finetune_trainer import prepare_labelled_batch as prepare_labelled_batch
    from .prediction_inferer import PredictorInferer as PredictorInferer
    from .predictors import ClassificationPredictor as ClassificationPredictor
    from .predictors import DetectionPredictor as DetectionPredictor
    from .predictors import SegmentationPredictor as SegmentationPredictor
    from .prepare_batch import prepare_joint_batch as prepare_joint_batch

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "cluster_trainer": ["ClusterTrainer"],
        "finetune_evaluator": ["FinetuneEvaluator"],
        "finetune_trainer": ["FinetuneTrainer", "prepare_detection_batch", "prepare_labelled_batch"],
        "predictors": ["ClassificationPredictor", "DetectionPredictor", "SegmentationPredictor"],
        "prediction_inferer": ["PredictorInferer"],
        "prepare_batch": ["prepare_joint_batch"],
    },
)
