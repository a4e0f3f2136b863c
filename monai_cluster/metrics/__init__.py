# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Measures of embeddings and clusters that MONAI, ignite and scikit-learn lack, and shells over those they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .agreement import clustering_agreement as clustering_agreement
    from .agreement import matched_churn as matched_churn
    from .bootstrap import BootstrapInterval as BootstrapInterval
    from .bootstrap import PairedDifference as PairedDifference
    from .bootstrap import bootstrap_interval as bootstrap_interval
    from .bootstrap import bootstrap_mean as bootstrap_mean
    from .bootstrap import paired_difference as paired_difference
    from .classification_scores import area_under_roc as area_under_roc
    from .classification_scores import confusion_counts as confusion_counts
    from .classification_scores import score_classification as score_classification
    from .detection_scores import average_precision as average_precision
    from .detection_scores import froc as froc
    from .detection_scores import match_case as match_case
    from .detection_scores import operating_threshold as operating_threshold
    from .detection_scores import score_cases as score_cases
    from .detection_scores import score_detections as score_detections
    from .knn import knn_accuracy as knn_accuracy
    from .knn import knn_predict as knn_predict
    from .linear_classification import LinearProbeResult as LinearProbeResult
    from .linear_classification import linear_probe as linear_probe
    from .rankme import effective_rank as effective_rank
    from .rankme import feature_std as feature_std
    from .rankme import rank_me as rank_me
    from .segmentation_scores import foreground_mean as foreground_mean
    from .segmentation_scores import score_segmentation as score_segmentation
    from .segmentation_scores import summarise_segmentation as summarise_segmentation
    from .validation import boxes_and_detections as boxes_and_detections
    from .validation import class_overlap as class_overlap
    from .validation import mean_dice as mean_dice
    from .validation import true_class_and_probabilities as true_class_and_probabilities
    from .validation import validation_auc as validation_auc
    from .validation import validation_average_precision as validation_average_precision

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "validation": [
            "boxes_and_detections",
            "class_overlap",
            "mean_dice",
            "true_class_and_probabilities",
            "validation_auc",
            "validation_average_precision",
        ],
        "bootstrap": [
            "BootstrapInterval",
            "PairedDifference",
            "bootstrap_interval",
            "bootstrap_mean",
            "paired_difference",
        ],
        "classification_scores": ["area_under_roc", "confusion_counts", "score_classification"],
        "segmentation_scores": ["foreground_mean", "score_segmentation", "summarise_segmentation"],
        "agreement": ["clustering_agreement", "matched_churn"],
        "detection_scores": [
            "average_precision",
            "froc",
            "match_case",
            "operating_threshold",
            "score_cases",
            "score_detections",
        ],
        "knn": ["knn_accuracy", "knn_predict"],
        "linear_classification": ["LinearProbeResult", "linear_probe"],
        "rankme": ["effective_rank", "feature_std", "rank_me"],
    },
)
