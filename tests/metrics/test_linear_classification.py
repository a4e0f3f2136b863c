# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The linear probe against scikit-learn by hand, and its edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from monai_cluster.metrics import linear_probe


def planted(number: int, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Features whose scale differs by dimension, and unequal classes that overlap."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(classes, number, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    points = np.eye(8)[codes] * 1.6 + rng.normal(size=(number, 8))
    return torch.tensor(points * np.logspace(-2, 2, 8)), np.array(["a", "b", "c"])[codes]


def test_scores_equal_those_of_scikit_learn_on_standardised_features() -> None:
    (train, labels), (test, truth) = planted(120), planted(80, seed=1)
    mean, std = train.mean(0), train.std(0, correction=0)
    model = LogisticRegression(C=0.1, max_iter=2000).fit(((train - mean) / std).numpy(), labels)
    standard = ((test - mean) / std).numpy()
    found = linear_probe(train, labels, test, truth, inverse_penalty=0.1)
    assert found.accuracy == pytest.approx(np.mean(model.predict(standard) == truth))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, model.predict(standard)))
    assert found.auc == pytest.approx(
        roc_auc_score(truth, model.predict_proba(standard), multi_class="ovr", average="macro"), abs=1e-3
    )
    assert 0.5 < found.accuracy < 0.95  # the task is neither trivial nor hopeless


def test_two_classes_score_the_area_of_the_binary_curve() -> None:
    (train, labels), (test, truth) = planted(100, classes=2), planted(60, classes=2, seed=1)
    model = LogisticRegression(C=0.01, max_iter=2000)
    mean, std = train.mean(0), train.std(0, correction=0)
    model.fit(((train - mean) / std).numpy(), labels)
    area = roc_auc_score(truth == "b", model.predict_proba(((test - mean) / std).numpy())[:, 1])
    assert linear_probe(train, labels, test, truth, inverse_penalty=0.01).auc == pytest.approx(area, abs=1e-3)


def test_cross_validation_penalises_noise_more_than_signal() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    signal = labels[:, None] + 0.3 * rng.normal(size=(60, 2))
    noise = np.hstack([labels[:, None] + 2.0 * rng.normal(size=(60, 1)), rng.normal(size=(60, 200))])
    chosen = [linear_probe(item, labels, item, labels).inverse_penalty for item in (signal, noise)]
    assert chosen[1] < chosen[0]
    assert linear_probe(signal, labels, signal, labels).accuracy > 0.95


def test_a_class_with_a_single_training_row_is_probed_without_cross_validation() -> None:
    features = np.array([[0.0, 0], [0, 1], [5, 5]])
    assert linear_probe(features, [0, 0, 1], features, [0, 0, 1]).inverse_penalty == 0.01


def test_a_class_that_only_the_test_rows_have_counts_as_missed_and_one_class_has_no_area() -> None:
    train = np.array([[0.0], [0.1], [1.0], [1.1]])
    found = linear_probe(train, [0, 0, 1, 1], np.array([[0.0], [1.0], [2.0]]), [0, 1, 2], inverse_penalty=10.0)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.balanced_accuracy == pytest.approx(2 / 3)
    assert math.isnan(linear_probe(train, [0, 0, 1, 1], train[:2], [0, 0]).auc)


@pytest.mark.parametrize(
    ("train", "labels", "test", "truth", "penalty", "message"),
    [
        (np.ones((4, 2)), [0, 0, 1, 1], np.ones((2, 3)), [0, 1], None, "equal F"),
        (np.ones((4, 2)), [0, 1, 1], np.ones((2, 2)), [0, 1], None, "one label per row"),
        (np.ones((4, 2)), [1, 1, 1, 1], np.ones((2, 2)), [0, 1], None, "at least two classes"),
        (np.ones((4, 2)), [0, 0, 1, 1], np.ones((0, 2)), [], None, "at least one test row"),
        (np.ones((4, 2)), [0, 0, 1, 1], np.ones((2, 2)), [0, 1], 0.0, "must be above 0"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(
    train: np.ndarray, labels: list, test: np.ndarray, truth: list, penalty: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        linear_probe(train, labels, test, truth, inverse_penalty=penalty)
