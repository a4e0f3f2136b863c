# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Scores of a whole test set from its cases, their intervals, their differences, and the way through JSON and back."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from monai_cluster.metrics import match_case, score_segmentation
from monai_cluster.metrics.task_scores import (
    MAIN_SCORE,
    compare_cases,
    part_from_json,
    part_to_json,
    score_parts,
    score_with_intervals,
)

NAN = math.nan
ORGANS = ("background", "a", "b")


def organ(dice_a: float, dice_b: float) -> dict[str, dict[str, float]]:
    """A case of which only these two Dice scores are known."""
    distances = {"surface_distance_mm": NAN, "hd95_mm": NAN}
    return {"a": {"dice": dice_a} | distances, "b": {"dice": dice_b} | distances}


def boxes(found: list[list[float]], scores: list[float], true: list[list[float]]):
    return match_case(
        {"box": np.reshape(found, (-1, 4)), "box_label": np.zeros(len(found), int), "score": np.array(scores)},
        {"box": np.reshape(true, (-1, 4)), "box_label": np.zeros(len(true), int)},
    )


DETECTED = [
    boxes([[0, 0, 4, 4], [8, 8, 12, 12]], [0.9, 0.3], [[0, 0, 4, 4]]),
    boxes([], [], [[2, 2, 6, 6]]),
    boxes([[1, 1, 3, 3]], [0.5], []),
    boxes([], [], []),
]
CLASSIFIED = [(0, [0.8, 0.2]), (1, [0.6, 0.4]), (1, [0.1, 0.9]), (0, [0.7, 0.3]), (1, [0.75, 0.25])]


def test_the_mean_goes_over_cases_first_and_leaves_out_what_nobody_has() -> None:
    parts = [organ(0.2, NAN), organ(0.4, NAN), organ(0.9, 0.6)]
    scores = score_parts("segmentation", parts, ORGANS)
    assert scores["dice of a"] == pytest.approx(0.5)
    assert scores["dice of b"] == pytest.approx(0.6)
    assert scores["dice"] == pytest.approx(0.55), "not .525, the mean over cases of means over classes"
    assert math.isnan(scores["hd95_mm"])


def test_a_class_that_no_case_has_does_not_count() -> None:
    scores = score_parts("segmentation", [organ(0.5, NAN), organ(0.7, NAN)], ORGANS)
    assert scores["dice"] == pytest.approx(0.6)
    assert math.isnan(scores["dice of b"])


@pytest.mark.parametrize(
    ("task", "parts", "names"),
    [
        ("segmentation", [organ(0.2, NAN), organ(1.0, 0.6)], ORGANS),
        ("detection", DETECTED, ("lesion",)),
        ("classification", CLASSIFIED, ("no", "yes")),
    ],
)
def test_cases_score_the_same_after_a_way_through_strict_json(task: str, parts, names) -> None:
    text = json.dumps([part_to_json(task, part) for part in parts], allow_nan=False)
    back = [part_from_json(task, part) for part in json.loads(text)]
    for chosen in (slice(None), slice(0, 1), slice(1, 2)):
        before, after = (score_parts(task, one[chosen], names) for one in (parts, back))
        np.testing.assert_equal(after, before)


def test_real_segmentation_cases_keep_every_number_in_json() -> None:
    rng = np.random.default_rng(0)
    part = score_segmentation(rng.integers(0, 3, (6, 7, 4)), rng.integers(0, 2, (6, 7, 4)), (1, 1, 2), ORGANS)
    assert part["b"]["dice"] == 0
    text = json.dumps(part_to_json("segmentation", part))
    np.testing.assert_equal(part_from_json("segmentation", json.loads(text)), part)


def test_the_main_score_is_among_the_scores() -> None:
    found = {"segmentation": [organ(0.5, 0.5)], "detection": DETECTED, "classification": CLASSIFIED}
    for task, parts in found.items():
        names = ORGANS if task == "segmentation" else ("no", "yes")[: 1 if task == "detection" else 2]
        assert MAIN_SCORE[task] in score_parts(task, parts, names)


def test_an_unknown_task_and_no_case_are_refused() -> None:
    with pytest.raises(ValueError, match=r"task must be one of segmentation, detection, class.* got 'survival'"):
        score_parts("survival", CLASSIFIED, ("no", "yes"))
    with pytest.raises(ValueError, match=r"with at least one case, got 'detection'"):
        score_parts("detection", [], ("lesion",))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.floats(0, 1)), min_size=2, max_size=12))
def test_intervals_hold_what_resampling_whole_patients_gives(rows) -> None:
    parts = [(label, [1 - value, value]) for _, label, value in rows]
    patients = [patient for patient, _, _ in rows]
    found = score_with_intervals("classification", parts, ("no", "yes"), patients, num_draws=60)["accuracy"]
    right = np.array([float((values[1] > 0.5) == label) for label, values in parts])
    assert found.value == pytest.approx(np.mean([np.argmax(values) == label for label, values in parts]))
    if len(set(patients)) == 1:
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        return
    assert found.low <= found.high
    means = [right[np.array(patients) == patient].mean() for patient in set(patients)]
    ties = any(values[0] == values[1] for _, values in parts)
    assert ties or min(means) - 1e-9 <= found.low <= found.high <= max(means) + 1e-9


def test_a_difference_is_that_of_the_scores_and_zero_to_itself() -> None:
    rng = np.random.default_rng(1)
    labels = [0, 1] * 10
    first, second = (
        [(label, [1 - p, p]) for label, p in zip(labels, rng.uniform(0, 1, 20), strict=True)] for _ in range(2)
    )
    patients, seeds = list(range(10)) * 2, [0] * 10 + [1] * 10
    names = ("no", "yes")
    found = compare_cases("classification", first, second, names, patients, seeds, num_draws=50)
    wanted = np.mean(
        [
            roc_auc_score(labels[part], [p for _, (_, p) in first[part]])
            - roc_auc_score(labels[part], [p for _, (_, p) in second[part]])
            for part in (slice(0, 10), slice(10, 20))
        ]
    )
    assert found.mean == pytest.approx(wanted)
    assert (found.num_patients, found.num_seeds) == (10, 2)
    itself = compare_cases("classification", first, first, names, patients, seeds, num_draws=50)
    assert (itself.mean, itself.low, itself.high) == (0, 0, 0)
