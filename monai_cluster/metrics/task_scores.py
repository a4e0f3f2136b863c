# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""All scores of a test set from what is known of each case, with intervals over patients: one way for every task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from .bootstrap import BootstrapInterval, PairedDifference, bootstrap_interval, paired_difference
from .classification_scores import score_classification
from .detection_scores import MatchedCase, score_cases
from .segmentation_scores import SEGMENTATION_SCORES

__all__ = ["MAIN_SCORE", "compare_cases", "score_parts", "score_with_intervals"]

# The score that runs are compared by.
MAIN_SCORE = {"segmentation": "dice", "detection": "ap_10_50", "classification": "auc"}
DISTANCES = [name for name in SEGMENTATION_SCORES if not name.endswith("volume_ml")]


def score_parts(task: str, parts: Sequence[Any], class_names: Sequence[str]) -> dict[str, float]:
    """Every score of a set of cases.

    Args:
        task: segmentation, detection or classification.
        parts: per case: scores by class, see :func:`score_segmentation`; a :class:`MatchedCase`; or
            ``(label, probabilities)``.
        class_names: by number; a segmentation's with the background first.

    Returns:
        segmentation: ``dice``, ``surface_distance_mm``, ``hd95_mm``, means over classes of means over cases, and each
        ``of CLASS``; detection: see :func:`score_cases`; classification: see :func:`score_classification`.

    Raises:
        ValueError: for an unknown task or no case.
    """
    if task not in MAIN_SCORE or not parts:
        raise ValueError(f"task must be one of {', '.join(MAIN_SCORE)} with at least one case, got {task!r}.")
    if task == "detection":
        return score_cases(parts, class_names)
    if task == "classification":
        return score_classification([values for _, values in parts], [label for label, _ in parts], class_names)
    scores: dict[str, float] = {}
    for score in DISTANCES:
        by_class = {name: _mean([part[name][score] for part in parts]) for name in parts[0]}
        scores[score] = _mean(list(by_class.values()))
        scores |= {f"{score} of {name}": value for name, value in by_class.items()}
    return scores


def score_with_intervals(
    task: str, parts: Sequence[Any], class_names: Sequence[str], patients: Sequence[Any], num_draws: int = 1000
) -> dict[str, BootstrapInterval]:
    """:func:`score_parts` with 95 % bootstrap intervals over patients.

    Args:
        task: as there.
        parts: as there.
        class_names: as there.
        patients: of every case.
        num_draws: of patients.

    Raises:
        ValueError: as there.
    """
    known: dict[bytes, dict[str, float]] = {}

    def score(rows: Any, name: str) -> float:
        key = rows.tobytes()  # equal seeds draw equal patients: all scores of a draw are computed once
        if key not in known:
            known[key] = score_parts(task, [parts[row] for row in rows], class_names)
        return known[key].get(name, math.nan)

    names = list(score_parts(task, parts, class_names))
    return {name: bootstrap_interval(partial(score, name=name), patients, num_draws=num_draws) for name in names}


def compare_cases(
    task: str,
    first: Sequence[Any],
    second: Sequence[Any],
    class_names: Sequence[str],
    patients: Sequence[Any],
    seeds: Sequence[Any],
    num_draws: int = 1000,
) -> PairedDifference:
    """First minus second in the task's main score, on the same cases under the same training seeds.

    Args:
        task: as :func:`score_parts`.
        first: parts of all cases under all seeds.
        second: likewise, in the same order.
        class_names: by number.
        patients: of every part.
        seeds: of every part.
        num_draws: of patients and seeds.
    """
    name = MAIN_SCORE[task]
    scored = [
        (lambda rows, parts=parts: score_parts(task, [parts[row] for row in rows], class_names)[name])
        for parts in (first, second)
    ]
    return paired_difference(scored[0], scored[1], patients, seeds, num_draws=num_draws)


def part_to_json(task: str, part: Any) -> Any:
    """A part as JSON holds it; NaN becomes null."""
    if task == "detection":
        return {name: np.asarray(value).astype(float).tolist() for name, value in part._asdict().items()}
    if task == "classification":
        return {"label": int(part[0]), "probabilities": [float(value) for value in part[1]]}
    return {
        name: {score: None if math.isnan(value) else float(value) for score, value in scores.items()}
        for name, scores in part.items()
    }


def part_from_json(task: str, found: Mapping[str, Any]) -> Any:
    """The way back."""
    if task == "detection":
        labels, scores, hits, true = (np.asarray(found[name]) for name in MatchedCase._fields)
        hits = hits.reshape(len(found["hits"]), len(labels))  # a case without detections has rows of length 0
        return MatchedCase(labels.astype(int), scores.astype(float), hits.astype(bool), true.astype(int))
    if task == "classification":
        return found["label"], found["probabilities"]
    return {
        name: {score: math.nan if value is None else value for score, value in scores.items()}
        for name, scores in found.items()
    }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
