# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Scores quick enough for every validation epoch: counts per sample first, one number in the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_cluster.keys import ClusterKeys as Keys

from .classification_scores import score_classification
from .detection_scores import MatchedCase, match_case, score_cases

__all__ = [
    "boxes_and_detections",
    "class_overlap",
    "mean_dice",
    "true_class_and_probabilities",
    "validation_auc",
    "validation_average_precision",
]


def class_overlap(sample: Mapping[str, Any]) -> Tensor:
    """Counts ``3 K``: intersection, predicted and true voxels of each class, on the preprocessed grid.

    Args:
        sample: ``label`` ``1 …`` (class ids) and ``pred`` ``K …`` (probabilities).
    """
    prediction = sample[Keys.PRED]
    classes = len(prediction)
    ids = prediction.argmax(0).flatten().cpu()
    label = torch.as_tensor(sample[Keys.LABEL]).flatten().long().cpu()
    counts = [torch.bincount(found, minlength=classes) for found in (ids[ids == label], ids, label)]
    return torch.stack(counts)


def mean_dice(counts: Sequence[Tensor]) -> dict[str, float]:
    """Dice per foreground class, averaged over the samples in which truth or prediction has the class.

    Args:
        counts: of all samples, see :func:`class_overlap`.

    Returns:
        ``val_dice``, the mean over classes, and ``val_dice_1`` … of each.
    """
    table = torch.stack([torch.as_tensor(found) for found in counts]).double().numpy()
    total = table[:, 1] + table[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        dice = np.where(total > 0, 2 * table[:, 0] / total, np.nan)[:, 1:]
    present = [dice[~np.isnan(dice[:, place]), place] for place in range(dice.shape[1])]
    means = [float(values.mean()) if len(values) else float("nan") for values in present]
    known = [value for value in means if not np.isnan(value)]
    return {"val_dice": float(np.mean(known)) if known else 0.0} | {
        f"val_dice_{place}": value for place, value in enumerate(means, 1)
    }


def true_class_and_probabilities(sample: Mapping[str, Any]) -> tuple[int, list[float]]:
    """The label and the predicted probabilities of one sample."""
    return int(sample[Keys.LABEL]), [float(value) for value in sample[Keys.PRED]]


def validation_auc(parts: Sequence[tuple[int, Sequence[float]]]) -> dict[str, float]:
    """Area under the ROC curve, mean over the classes that some samples have and others lack, and balanced accuracy.

    Args:
        parts: of all samples, see :func:`true_class_and_probabilities`.

    Returns:
        ``val_auc`` (0.5 where no class can be told from another) and ``val_balanced_accuracy``.
    """
    scores = score_classification([values for _, values in parts], [label for label, _ in parts])
    area = scores["auc"]
    return {"val_auc": 0.5 if math.isnan(area) else area, "val_balanced_accuracy": scores["balanced_accuracy"]}


def boxes_and_detections(sample: Mapping[str, Any]) -> MatchedCase:
    """The matches of one sample's detections (``pred``) with its boxes."""
    return match_case(sample[Keys.PRED], sample)


def validation_average_precision(cases: Sequence[MatchedCase]) -> dict[str, float]:
    """Average precision over IoU .1 to .5, which moves sooner than that at .5, and the latter.

    Args:
        cases: of all samples, see :func:`boxes_and_detections`.

    Returns:
        ``val_ap_10_50`` (0 where no sample has a box), ``val_ap_50`` and ``val_froc``.
    """
    scores = score_cases(cases)
    return {f"val_{name}": float(np.nan_to_num(scores[name])) for name in ("ap_10_50", "ap_50", "froc")}
