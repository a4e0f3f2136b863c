# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Area under the ROC curve, accuracy, balanced accuracy and the confusion matrix, quick enough for a bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["area_under_roc", "confusion_counts", "score_classification"]

Array = npt.NDArray[Any]


def area_under_roc(scores: Any, positive: Any) -> float:
    """Probability that a positive sample scores higher than a negative one, ties counting half (Mann-Whitney U).

    Args:
        scores: ``N``, higher for the positive class.
        positive: ``N``, True for samples of the positive class.

    Returns:
        The area; NaN where all samples are of one kind, since nothing can then be told from another.

    Raises:
        ValueError: for lengths that differ.
    """
    values, truth = _array(scores).astype(np.float64), _array(positive).astype(bool)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"one score and one truth per sample are needed, got shapes {values.shape} and {truth.shape}.")
    negatives = np.sort(values[~truth])
    positives = values[truth]
    if not len(positives) or not len(negatives):
        return math.nan
    below = np.searchsorted(negatives, positives, "left")
    not_above = np.searchsorted(negatives, positives, "right")
    return float((below + not_above).sum() / (2 * len(positives) * len(negatives)))


def confusion_counts(predicted: Any, labels: Any, num_classes: int) -> npt.NDArray[np.int64]:
    """How often each class (rows: truth) was called each class (columns: prediction), ``K K``.

    Args:
        predicted: ``N`` class ids.
        labels: ``N`` class ids.
        num_classes: K.

    Raises:
        ValueError: for lengths that differ or ids outside 0..K-1.
    """
    called, truth = _array(predicted), _array(labels)
    if called.ndim != 1 or called.shape != truth.shape:
        raise ValueError(
            f"one prediction and one label per sample are needed, got shapes {called.shape} and {truth.shape}."
        )
    for what, ids in (("prediction", called), ("label", truth)):
        wrong = ids[~np.isin(ids, np.arange(num_classes))]
        if wrong.size:
            raise ValueError(f"every {what} must be a class id 0..{num_classes - 1}, got {wrong[0]}.")
    flat = np.bincount(truth.astype(np.int64) * num_classes + called.astype(np.int64), minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def score_classification(probabilities: Any, labels: Any, class_names: Sequence[str] = ()) -> dict[str, float]:
    """All scores of a set of samples; the most probable class is the prediction, the first one of equals.

    Args:
        probabilities: ``N K``, K at least 2.
        labels: ``N`` class ids.
        class_names: of the K classes; with them each is also reported by itself.

    Returns:
        ``auc``: with two classes the area for class 1, with more the mean of one class against the rest over the
        classes that some samples have and others lack, NaN if there is none; ``accuracy``; ``balanced_accuracy``: the
        mean recall of the classes that samples have; with names ``auc NAME`` and ``recall NAME``, NaN where undefined.

    Raises:
        ValueError: for shapes that do not go together, no sample, values that are not finite, or unknown labels.
    """
    table, truth = _array(probabilities).astype(np.float64), _array(labels)
    if table.ndim != 2 or truth.shape != (len(table),) or table.shape[1] < 2 or not len(table):
        raise ValueError(
            f"probabilities N K (K at least 2) and N labels are needed, N at least 1, got shapes {table.shape} and "
            f"{truth.shape}."
        )
    if not np.isfinite(table).all():
        raise ValueError("probabilities must be finite, got NaN or infinity: look for a diverged training.")
    if class_names and len(class_names) != table.shape[1]:
        raise ValueError(f"every class needs a name, got {len(class_names)} names for {table.shape[1]} classes.")
    counts = confusion_counts(table.argmax(1), truth, table.shape[1])
    areas = np.array([area_under_roc(table[:, k], truth == k) for k in range(table.shape[1])])
    with np.errstate(invalid="ignore"):
        recalls = np.diag(counts) / counts.sum(1)
    known = areas[1:2] if len(areas) == 2 else areas[~np.isnan(areas)]
    scores = {
        "auc": float(known.mean()) if len(known) else math.nan,
        "accuracy": float(np.trace(counts) / counts.sum()),
        "balanced_accuracy": float(np.nanmean(recalls)),
    }
    for name, area, recall in zip(class_names, areas, recalls, strict=False):
        scores |= {f"auc {name}": float(area), f"recall {name}": float(recall)}
    return scores


def _array(values: Any) -> Array:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
