# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Rules of the algorithm that happen around a training step, as MONAI handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .cluster_health import ClusterHealth as ClusterHealth
    from .epoch_score import EpochScore as EpochScore
    from .freeze_pretrained import FreezePretrained as FreezePretrained
    from .knn_probe import KNNProbe as KNNProbe
    from .loss_diagnosis import LossDiagnosis as LossDiagnosis
    from .metrics_jsonl import MetricsJsonl as MetricsJsonl
    from .progress_bar import ProgressBar as ProgressBar
    from .prototypes import FreezePrototypes as FreezePrototypes
    from .prototypes import NormalizePrototypes as NormalizePrototypes
    from .recluster import Recluster as Recluster
    from .save_best_weights import SaveBestWeights as SaveBestWeights
    from .set_epoch import SetEpoch as SetEpoch
    from .stage_schedule import Stage as Stage
    from .stage_schedule import StageSchedule as StageSchedule
    from .validate_every import ValidateEvery as ValidateEvery

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "validate_every": ["ValidateEvery"],
        "epoch_score": ["EpochScore"],
        "freeze_pretrained": ["FreezePretrained"],
        "cluster_health": ["ClusterHealth"],
        "knn_probe": ["KNNProbe"],
        "loss_diagnosis": ["LossDiagnosis"],
        "metrics_jsonl": ["MetricsJsonl"],
        "progress_bar": ["ProgressBar"],
        "prototypes": ["FreezePrototypes", "NormalizePrototypes"],
        "recluster": ["Recluster"],
        "save_best_weights": ["SaveBestWeights"],
        "set_epoch": ["SetEpoch"],
        "stage_schedule": ["Stage", "StageSchedule"],
    },
)
