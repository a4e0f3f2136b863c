# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Average precision as COCO defines it and free-response ROC, from matches that are made once per case.

Every case is matched by itself, so a bootstrap over patients draws cases again and only sums again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from monai.data.box_utils import box_iou

from monai_cluster.keys import ClusterKeys as Keys

__all__ = [
    "FROC_RATES",
    "IOU_THRESHOLDS",
    "FrocCurve",
    "MatchedCase",
    "average_precision",
    "froc",
    "match_case",
    "operating_threshold",
    "score_cases",
    "score_detections",
]

IOU_THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(18))  # 0.1 … 0.95
FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
RECALLS = np.linspace(0, 1, 101) - 1e-9  # 7 of 10 boxes is recall .7, whatever float makes of it

Array = np.ndarray[Any, Any]


class MatchedCase(NamedTuple):
    """Detections of one case: class and score ``D``, whether each hit a box at every IoU threshold ``T D``, and the
    class of every true box ``N``."""

    labels: Array
    scores: Array
    hits: Array
    true_labels: Array


class FrocCurve(NamedTuple):
    """Free-response ROC: false positives per case and sensitivity at every operating point, sensitivity at the given
    rates, and its mean."""

    false_positives: Array
    sensitivity: Array
    at_rates: dict[float, float]
    mean: float


def match_case(prediction: Mapping[str, Any], target: Mapping[str, Any], max_detections: int = 100) -> MatchedCase:
    """Match one case's detections to its boxes, class by class and for every threshold of ``IOU_THRESHOLDS``.

    By falling score, each detection takes the free box that it overlaps most, if by at least the threshold. A second
    detection of a box is a false positive.

    Args:
        prediction: ``box`` ``D 2d``, ``box_label`` ``D`` and ``score`` ``D``.
        target: ``box`` ``N 2d`` and ``box_label`` ``N``.
        max_detections: only the best of each class count.

    Raises:
        ValueError: if boxes, labels and scores differ in number.
    """
    boxes, labels, scores = (_array(prediction[key]) for key in (Keys.BOX, Keys.BOX_LABEL, Keys.SCORE))
    true_boxes, true_labels = _array(target[Keys.BOX]), _array(target[Keys.BOX_LABEL])
    if not len(boxes) == len(labels) == len(scores) or len(true_boxes) != len(true_labels):
        raise ValueError(
            f"every box needs a label and a score, got {len(boxes)} boxes, {len(labels)} labels and {len(scores)} "
            f"scores, and {len(true_boxes)} true boxes with {len(true_labels)} labels."
        )
    order = np.argsort(-scores, kind="stable")
    kept = [order[labels[order] == label][:max_detections] for label in np.unique(labels)]
    chosen = np.concatenate(kept) if kept else order
    hits = np.zeros((len(IOU_THRESHOLDS), len(chosen)), dtype=bool)
    for label in np.intersect1d(labels, true_labels):
        here = np.flatnonzero(labels[chosen] == label)
        overlap = box_iou(boxes[chosen[here]].astype(np.float64), true_boxes[true_labels == label].astype(np.float64))
        hits[:, here] = _greedy(np.asarray(overlap))
    return MatchedCase(labels[chosen].astype(int), scores[chosen].astype(float), hits, true_labels.astype(int))


def _greedy(overlap: Array) -> Array:
    """Which of D detections, best first, hit one of N boxes, ``T D``, from IoU ``D N``."""
    thresholds = np.minimum(np.asarray(IOU_THRESHOLDS), 1 - 1e-10)
    hits = np.zeros((len(thresholds), len(overlap)), dtype=bool)
    free = np.ones((len(thresholds), overlap.shape[1]), dtype=bool)
    rows = np.arange(len(thresholds))
    for place in np.flatnonzero(overlap.max(axis=1) >= thresholds[0]):
        candidates = np.where(free, overlap[place], -1.0)
        best = candidates.argmax(axis=1)
        hit = candidates[rows, best] >= thresholds
        hits[:, place] = hit
        free[rows[hit], best[hit]] = False
    return hits


def average_precision(cases: Sequence[MatchedCase], label: int) -> Array:
    """COCO's average precision of one class at every threshold, ``T``: precision, made falling, at 101 recalls.

    NaN where no case has a box of the class; 0 where there are boxes and no detections.

    Args:
        cases: as :func:`match_case` gives them.
        label: the class.
    """
    total = sum(int((case.true_labels == label).sum()) for case in cases)
    if total == 0:
        return np.full(len(IOU_THRESHOLDS), np.nan)
    scores = np.concatenate([case.scores[case.labels == label] for case in cases])
    hits = np.concatenate([case.hits[:, case.labels == label] for case in cases], axis=1)
    hits = hits[:, np.argsort(-scores, kind="stable")]
    true = hits.cumsum(axis=1)
    recall = true / total
    precision = true / np.arange(1, len(scores) + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # One more point with precision 0, for recalls that are never reached.
    precision = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)
    places = [np.searchsorted(row, RECALLS, side="left") for row in recall]
    return np.asarray([row[place].mean() for row, place in zip(precision, places, strict=True)])


def froc(
    cases: Sequence[MatchedCase],
    iou: float = 0.1,
    rates: Sequence[float] = FROC_RATES,
    label: int | None = None,
) -> FrocCurve:
    """Sensitivity over false positives per case (Bunch et al. 1978), all cases counted, with and without boxes.

    Between operating points it is interpolated, beyond the last one constant, as in the LUNA16 challenge. Without any
    true box it is NaN; with boxes and no detection 0.

    Args:
        cases: as :func:`match_case` gives them.
        iou: overlap that makes a hit, one of ``IOU_THRESHOLDS``.
        rates: false positives per case to report.
        label: one class; None takes all detections together, each right for its own class only.

    Raises:
        ValueError: for another threshold, or no case.
    """
    if round(iou, 2) not in IOU_THRESHOLDS or not cases:
        raise ValueError(f"iou must be one of {IOU_THRESHOLDS} and there must be a case, got {iou} and {len(cases)}.")
    place = IOU_THRESHOLDS.index(round(iou, 2))
    mine = [np.ones(len(case.labels), dtype=bool) if label is None else case.labels == label for case in cases]
    scores = np.concatenate([case.scores[chosen] for case, chosen in zip(cases, mine, strict=True)])
    hits = np.concatenate([case.hits[place, chosen] for case, chosen in zip(cases, mine, strict=True)])
    total = sum(len(case.true_labels) if label is None else int((case.true_labels == label).sum()) for case in cases)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores cross the threshold together
    false = np.concatenate([[0], (~hits[order]).cumsum()[ends]]) / len(cases)
    with np.errstate(invalid="ignore"):
        sensitivity = np.concatenate([[0], hits[order].cumsum()[ends]]) / np.float64(total)
    at_rates = {float(rate): float(np.interp(rate, false, sensitivity)) for rate in rates}
    return FrocCurve(false, sensitivity, at_rates, float(np.mean(list(at_rates.values()))))


def operating_threshold(cases: Sequence[MatchedCase], false_positives: float = 1.0, iou: float = 0.1) -> float:
    """The lowest score that leaves at most so many false positives per case: where a detector would be used.

    Args:
        cases: as :func:`match_case` gives them.
        false_positives: per case.
        iou: overlap that makes a hit, one of ``IOU_THRESHOLDS``.
    """
    place = IOU_THRESHOLDS.index(round(iou, 2))
    false = np.sort(np.concatenate([case.scores[~case.hits[place]] for case in cases]))[::-1]
    allowed = int(false_positives * len(cases))
    return float(np.nextafter(false[allowed], np.inf)) if len(false) > allowed else 0.0


def score_cases(
    cases: Sequence[MatchedCase], class_names: Sequence[str] = (), froc_iou: float = 0.1
) -> dict[str, float]:
    """All scores of a set of cases.

    Args:
        cases: as :func:`match_case` gives them.
        class_names: of labels 0, 1 …; without them, classes are those that appear, and none is reported by itself.
        froc_iou: overlap that makes a hit in the FROC.

    Returns:
        ``ap_10`` and ``ap_50`` (at IoU .1 and .5), ``ap_10_50`` and ``ap_50_95`` (means over steps of .05), each the
        mean over classes that have a box; ``ap_50 NAME`` per class; ``froc`` and ``froc_0.125`` … ``froc_8``.
    """
    seen = {int(label) for case in cases for label in case.true_labels}
    labels = range(len(class_names)) if class_names else sorted(seen)
    table = np.stack([average_precision(cases, label) for label in labels]) if labels else np.full((1, 18), np.nan)
    half = IOU_THRESHOLDS.index(0.5)
    parts = {"ap_10": slice(0, 1), "ap_50": slice(half, half + 1), "ap_10_50": slice(0, half + 1)}
    scores: dict[str, float] = {}
    for name, places in (parts | {"ap_50_95": slice(half, None)}).items():
        known = table[:, places].mean(axis=1)
        known = known[~np.isnan(known)]
        scores[name] = float(known.mean()) if len(known) else float("nan")
    scores |= {f"ap_50 {name}": float(table[place, half]) for place, name in enumerate(class_names)}
    curve = froc(cases, froc_iou)
    return scores | {"froc": curve.mean} | {f"froc_{rate:g}": value for rate, value in curve.at_rates.items()}


def score_detections(
    predictions: Sequence[Mapping[str, Any]],
    targets: Sequence[Mapping[str, Any]],
    class_names: Sequence[str] = (),
    froc_iou: float = 0.1,
    max_detections: int = 100,
) -> dict[str, float]:
    """:func:`match_case` of every case, then :func:`score_cases`.

    Args:
        predictions: per case ``box`` ``D 2d``, ``box_label`` ``D`` and ``score`` ``D``.
        targets: per case ``box`` ``N 2d`` and ``box_label`` ``N``.
        class_names: of labels 0, 1 ….
        froc_iou: overlap that makes a hit in the FROC.
        max_detections: of each class in a case.

    Raises:
        ValueError: if predictions and targets differ in number, and as :func:`match_case`.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"every case needs prediction and target, got {len(predictions)} and {len(targets)}.")
    cases = [match_case(*pair, max_detections) for pair in zip(predictions, targets, strict=True)]
    return score_cases(cases, class_names, froc_iou)


def _array(values: Any) -> Array:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float() if values.is_floating_point() else values.detach().cpu()
    array = np.asarray(values)
    return array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array
