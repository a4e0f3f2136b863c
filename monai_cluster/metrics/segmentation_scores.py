# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Dice, surface distances and volumes of label maps in their own resolution, with one policy for empty masks.

For a class that truth and prediction both lack there is nothing to score: its Dice and distances are NaN, it is left
out of means and counted as ``absent``. Where only one of the two has it, Dice is 0 and the distances, which would be
infinite, are NaN and counted as ``missed`` (by the prediction, or invented by it). A mean distance therefore speaks of
the found structures only and has to be read beside the number of missed ones.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.utils import get_edge_surface_distance

__all__ = ["SEGMENTATION_SCORES", "foreground_mean", "score_segmentation", "summarise_segmentation"]

SEGMENTATION_SCORES = ("dice", "surface_distance_mm", "hd95_mm")  # beside volumes or areas and counts
COUNTS = ("absent", "missed")
CaseScores = dict[str, dict[str, float]]
MaskArray = npt.NDArray[np.bool_]


def score_segmentation(
    prediction: Any, target: Any, spacing_mm: Sequence[float], classes: int | Sequence[str]
) -> CaseScores:
    """Score one case's label map against the truth, class by class.

    The surface of a mask are its voxels that touch another class or the array's border across a face. ``S_p`` and
    ``S_t`` being the surfaces of prediction and truth and d the distance to the nearest voxel of the other surface,

    * ``dice``: 2 |P ∩ T| / (|P| + |T|);
    * ``surface_distance_mm``: the mean of d over ``S_p`` and ``S_t`` together (average symmetric surface distance);
    * ``hd95_mm``: the larger of the two 95th percentiles of d, over ``S_p`` and over ``S_t``;
    * ``volume_ml``, ``true_volume_ml``: of prediction and truth, for pictures ``area_cm2`` and ``true_area_cm2``;
    * ``absent``: 1 if both lack the class; ``missed``: 1 if one of them does.

    Axes of length 1 are dropped, so that a volume of one slice is scored by its contours.

    Args:
        prediction: class ids ``H W S`` or ``H W``, tensor or array, with or without a leading channel ``1``.
        target: class ids of the same shape.
        spacing_mm: length of a voxel along each axis, such as ``affine_to_spacing`` gives.
        classes: names of all classes, background first, or how many there are.

    Returns:
        ``{class name: {score: value}}`` without the background.

    Raises:
        ValueError: for unequal shapes, spacings that do not fit or are not above 0, or ids outside the classes.
    """
    names = _class_names(classes)
    spacing = [float(length) for length in spacing_mm]
    predicted, true = _label_map(prediction, len(spacing)), _label_map(target, len(spacing))
    _check(predicted, true, spacing, names)
    volume = len(spacing) == 3
    unit, size = math.prod(spacing) / (1000 if volume else 100), "volume_ml" if volume else "area_cm2"
    kept = [axis for axis in range(true.ndim) if true.shape[axis] > 1] or [0]
    shape, in_use = [true.shape[axis] for axis in kept], [spacing[axis] for axis in kept]
    predicted, true = predicted.reshape(shape), true.reshape(shape)
    return {name: _class_scores(predicted == k, true == k, in_use, unit, size) for k, name in enumerate(names) if k}


def foreground_mean(scores: Mapping[str, Mapping[str, float]], score: str = "dice") -> float:
    """Mean of one score over the classes of a case that have it; NaN if none has."""
    return _mean([values[score] for values in scores.values()])


def summarise_segmentation(cases: Sequence[Mapping[str, Mapping[str, float]]]) -> CaseScores:
    """Means over cases, of each class and, as ``"mean"``, over the classes.

    Args:
        cases: as :func:`score_segmentation` gives them.

    Returns:
        ``{class name: …}`` with the mean of each score over the cases that have it, the numbers of cases ``absent`` and
        ``missed``, and ``scored``, the cases with a Dice. ``"mean"`` holds the means of the classes' means and the sums
        of their counts.

    Raises:
        ValueError: without a case, for cases of different classes, or a class of the name "mean".
    """
    names = list(cases[0]) if cases else []
    if not names or any(list(case) != names for case in cases):
        raise ValueError(f"cases must have the same classes, at least one, got {[list(case) for case in cases[:3]]}.")
    if "mean" in names:
        raise ValueError("no class may be called 'mean', the name of their mean: rename it.")
    means = [score for score in cases[0][names[0]] if score not in COUNTS]
    summary: CaseScores = {}
    for name in names:
        rows = [case[name] for case in cases]
        summary[name] = {score: _mean([row[score] for row in rows]) for score in means}
        summary[name] |= {count: float(sum(row[count] for row in rows)) for count in COUNTS}
        summary[name]["scored"] = float(sum(not math.isnan(row["dice"]) for row in rows))
    mean = {score: _mean([summary[name][score] for name in names]) for score in means}
    mean |= {count: sum(summary[name][count] for name in names) for count in (*COUNTS, "scored")}
    return summary | {"mean": mean}


def _class_scores(
    predicted: MaskArray, true: MaskArray, spacing: Sequence[float], unit: float, size: str
) -> dict[str, float]:
    sizes = int(predicted.sum()), int(true.sum())
    scores = {
        "dice": 2 * int((predicted & true).sum()) / sum(sizes) if any(sizes) else math.nan,
        "surface_distance_mm": math.nan,
        "hd95_mm": math.nan,
        size: sizes[0] * unit,
        f"true_{size}": sizes[1] * unit,
        "absent": float(not any(sizes)),
        "missed": float(any(sizes) and not all(sizes)),
    }
    if all(sizes):
        forth, back = _surface_distances(predicted, true, spacing)
        scores["surface_distance_mm"] = float(np.concatenate([forth, back]).mean())
        scores["hd95_mm"] = float(max(np.percentile(forth, 95), np.percentile(back, 95)))
    return scores


def _surface_distances(
    predicted: MaskArray, true: MaskArray, spacing: Sequence[float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """From each surface voxel of the prediction to the nearest one of the truth, and back, in millimetres."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI calls its own function with a deprecated argument
        _, distances, _ = get_edge_surface_distance(
            torch.from_numpy(predicted), torch.from_numpy(true), spacing=list(spacing), symmetric=True
        )
    forth, back = (np.asarray(found, np.float64) for found in distances)
    return forth, back


def _class_names(classes: int | Sequence[str]) -> list[str]:
    names = [str(k) for k in range(classes)] if isinstance(classes, int) else [str(name) for name in classes]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"classes must be at least two different names, the background's first, or their number, got {classes!r}."
        )
    return names


def _label_map(values: Any, dims: int) -> npt.NDArray[Any]:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    return array[0] if array.ndim == dims + 1 and len(array) == 1 else array


def _check(predicted: npt.NDArray[Any], true: npt.NDArray[Any], spacing: Sequence[float], names: list[str]) -> None:
    if predicted.shape != true.shape or true.ndim != len(spacing) or true.ndim not in (2, 3) or not true.size:
        raise ValueError(
            f"prediction and target must be class ids of one shape, H W or H W S, with one spacing per axis, got "
            f"{predicted.shape}, {true.shape} and {len(spacing)} spacings: bring the prediction to the target's grid."
        )
    if not all(length > 0 and math.isfinite(length) for length in spacing):
        raise ValueError(f"spacing_mm must be above 0, got {list(spacing)}.")
    for what, ids in (("prediction", predicted), ("target", true)):
        wrong = ids[~np.isin(ids, np.arange(len(names)))]
        if wrong.size:
            raise ValueError(
                f"the {what} must hold class ids 0..{len(names) - 1}, got {wrong.flat[0]}: map other values first."
            )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
