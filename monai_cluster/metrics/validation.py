# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Scores quick enough for every validation epoch: counts per sample first, one number in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_cluster.keys import ClusterKeys as Keys

__all__ = ["class_overlap", "mean_dice", "true_class_and_probabilities"]


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
