# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A linear classifier on frozen features: how much of the label is linearly there."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .knn import Labels, _as_array

__all__ = ["LinearProbeResult", "linear_probe"]

Array = npt.NDArray[Any]
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class LinearProbeResult(NamedTuple):
    """What a linear probe found on the test rows.

    Attributes:
        accuracy: share of right predictions.
        balanced_accuracy: mean recall of the classes.
        auc: area under the ROC curve, for several classes the mean of one against the rest; NaN where the test rows
            hold one class only.
        inverse_penalty: scikit-learn's C, as given or chosen.
    """

    accuracy: float
    balanced_accuracy: float
    auc: float
    inverse_penalty: float


def linear_probe(
    train_features: Any,
    train_labels: Labels,
    test_features: Any,
    test_labels: Labels,
    *,
    inverse_penalty: float | None = None,
    seed: int = 0,
) -> LinearProbeResult:
    """Logistic regression on features standardised by the training rows.

    Args:
        train_features: ``N F``, tensor or array.
        train_labels: N labels, numbers or text, at least two classes.
        test_features: ``M F``.
        test_labels: M labels.
        inverse_penalty: scikit-learn's C, above 0; None chooses from 1e-4 ... 1 by stratified cross-validation inside
            the training rows (2 to 5 folds, as the rarest class allows; 0.01 where a class has a single row).
        seed: of the folds.

    Raises:
        ValueError: for mismatched shapes, fewer than two training classes, no test row, or C not above 0.
    """
    train, test = (_as_array(item).astype(np.float64) for item in (train_features, test_features))
    truth_train, truth_test = _as_array(train_labels), _as_array(test_labels)
    _check(train, truth_train, test, truth_test, inverse_penalty)
    chosen = _choose_penalty(train, truth_train, seed) if inverse_penalty is None else inverse_penalty
    model = _classifier(chosen).fit(train, truth_train)
    predicted = model.predict(test)
    return LinearProbeResult(
        accuracy=float(np.mean(predicted == truth_test)),
        balanced_accuracy=_mean_recall(truth_test, predicted),
        auc=_area(model.predict_proba(test), truth_test, model.classes_),
        inverse_penalty=float(chosen),
    )


def _classifier(inverse_penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=2000))


def _choose_penalty(features: Array, labels: Array, seed: int) -> float:
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    rarest = int(np.unique(labels, return_counts=True)[1].min())
    if rarest < 2:
        return 0.01
    folds = StratifiedKFold(min(5, rarest), shuffle=True, random_state=seed)
    # By likelihood: accuracy ties among most penalties where classes are few rows and well apart.
    scores = [
        cross_val_score(_classifier(value), features, labels, cv=folds, scoring="neg_log_loss").mean()
        for value in INVERSE_PENALTIES
    ]
    return INVERSE_PENALTIES[int(np.argmax(scores))]


def _mean_recall(truth: Array, predicted: Array) -> float:
    """Over the classes of the test rows; one that only they have cannot be predicted and counts 0."""
    return float(np.mean([np.mean(predicted[truth == name] == name) for name in np.unique(truth)]))


def _area(probabilities: Array, truth: Array, classes: Array) -> float:
    """Mean one-against-rest AUC of the classes that the test rows hold and lack."""
    from sklearn.metrics import roc_auc_score

    areas = [
        float(roc_auc_score(truth == name, probabilities[:, column]))
        for column, name in enumerate(classes)
        if 0 < np.count_nonzero(truth == name) < len(truth)
    ]
    return float(np.mean(areas)) if areas else math.nan


def _check(train: Array, train_labels: Array, test: Array, test_labels: Array, inverse_penalty: float | None) -> None:
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise ValueError(f"features must be N F and M F with equal F, got shapes {train.shape} and {test.shape}.")
    if len(train) != len(train_labels) or len(test) != len(test_labels):
        raise ValueError(
            f"one label per row is needed, got {len(train_labels)} labels for {len(train)} training rows and "
            f"{len(test_labels)} for {len(test)} test rows."
        )
    if len(np.unique(train_labels)) < 2:
        raise ValueError(f"a probe needs at least two classes in training, got {np.unique(train_labels).tolist()}.")
    if not len(test):
        raise ValueError("a probe needs at least one test row, got none.")
    if inverse_penalty is not None and not inverse_penalty > 0:
        raise ValueError(f"inverse_penalty (scikit-learn's C) must be above 0, got {inverse_penalty}.")
