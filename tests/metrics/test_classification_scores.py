# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""AUC, accuracy, balanced accuracy and the confusion matrix against scikit-learn and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, recall_score, roc_auc_score

from monai_cluster.metrics import area_under_roc, confusion_counts, score_classification


def samples(classes: int, number: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that know a little, rounded so that there are ties, and labels of unequal frequency."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, number, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    table = np.round(rng.random((number, classes)) + 0.4 * np.eye(classes)[labels], 1)
    return table / table.sum(1, keepdims=True), labels


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_equal_scikit_learns(classes: int) -> None:
    probabilities, labels = samples(classes)
    names = [f"class {k}" for k in range(classes)]
    found = score_classification(torch.from_numpy(probabilities), torch.from_numpy(labels), names)
    called = probabilities.argmax(1)
    one_side = probabilities[:, 1] if classes == 2 else probabilities
    assert found["auc"] == pytest.approx(roc_auc_score(labels, one_side, multi_class="ovr"))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, called))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, called))
    recalls = recall_score(labels, called, average=None)
    for k, name in enumerate(names):
        assert found[f"recall {name}"] == pytest.approx(recalls[k])
        assert found[f"auc {name}"] == pytest.approx(roc_auc_score(labels == k, probabilities[:, k]))
    assert confusion_counts(called, labels, classes).tolist() == confusion_matrix(labels, called).tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_the_area_with_ties_equals_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    if positive.all() or not positive.any():
        assert math.isnan(area_under_roc(scores, positive))
    else:
        assert area_under_roc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_areas_by_hand() -> None:
    # Pairs (positive, negative): 3>1, 3>2, 2>1 right, 2=2 half.
    assert area_under_roc([1, 2, 2, 3], [False, False, True, True]) == 3.5 / 4
    assert area_under_roc([5, 5, 5], [True, False, True]) == 0.5
    assert area_under_roc([0.1, 0.9], [True, False]) == 0


def test_classes_without_samples_are_left_out_of_the_means() -> None:
    probabilities, labels = samples(4)
    kept = labels != 2
    found = score_classification(probabilities[kept], labels[kept], "abcd")
    areas = [roc_auc_score(labels[kept] == k, probabilities[kept, k]) for k in (0, 1, 3)]
    assert found["auc"] == pytest.approx(np.mean(areas))
    assert math.isnan(found["auc c"])
    assert math.isnan(found["recall c"])
    called = probabilities[kept].argmax(1)
    assert found["balanced_accuracy"] == pytest.approx(
        np.mean([np.mean(called[labels[kept] == k] == k) for k in (0, 1, 3)])
    )


def test_one_class_alone_has_an_accuracy_and_no_area() -> None:
    found = score_classification([[0.2, 0.8], [0.6, 0.4]], [1, 1])
    assert math.isnan(found["auc"])
    assert (found["accuracy"], found["balanced_accuracy"]) == (0.5, 0.5)


def test_confusion_has_truth_in_rows() -> None:
    assert confusion_counts([1, 1, 0], [0, 0, 2], 3).tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("probabilities", "labels", "names", "message"),
    [
        ([[0.5, 0.5]], [0, 1], "", "probabilities N K"),
        ([[1.0]], [0], "", "K at least 2"),
        (np.zeros((0, 2)), [], "", "N at least 1"),
        ([[0.5, math.nan]], [0], "", "must be finite"),
        ([[0.5, 0.5]], [2], "", "every label must be a class id 0..1, got 2"),
        ([[0.5, 0.5]], [0], "abc", "3 names for 2 classes"),
    ],
)
def test_what_cannot_be_scored_is_refused(probabilities: Any, labels: Any, names: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_classification(probabilities, np.asarray(labels, int), names)


def test_mismatched_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one score and one truth"):
        area_under_roc([1, 2], [True])
    with pytest.raises(ValueError, match="one prediction and one label"):
        confusion_counts([1, 2], [1], 3)
    with pytest.raises(ValueError, match="every prediction must be a class id"):
        confusion_counts([-1], [1], 3)
