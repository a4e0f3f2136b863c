# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Measures of embeddings and clusters that MONAI, ignite and scikit-learn lack, and shells over those they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .agreement import clustering_agreement as clustering_agreement
    from .agreement import matched_churn as matched_churn
    from .detection_scores import average_precision as average_precision
    from .detection_scores import froc as froc
    from .detection_scores import match_case as match_case
    from .detection_scores import score_cases as score_cases
    from .detection_scores import score_detections as score_detections
    from .knn import knn_accuracy as knn_accuracy
    from .knn import knn_predict as knn_predict
    from .linear_classification import LinearProbeResult as LinearProbeResult
    from .linear_classification import linear_probe as linear_probe
    from .rankme import effective_rank as effective_rank
    from .rankme import feature_std as feature_std
    from .rankme import rank_me as rank_me
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
        "agreement": ["clustering_agreement", "matched_churn"],
        "detection_scores": ["average_precision", "froc", "match_case", "score_cases", "score_detections"],
        "knn": ["knn_accuracy", "knn_predict"],
        "linear_classification": ["LinearProbeResult", "linear_probe"],
        "rankme": ["effective_rank", "feature_std", "rank_me"],
    },
)
