# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Agreement of clusters with labels, and churn that survives renaming."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import monai_cluster.metrics
from monai_cluster.metrics import clustering_agreement, matched_churn


def test_agreement_is_scikit_learns_on_the_samples_that_have_both() -> None:
    rng = np.random.default_rng(0)
    clusters, labels = rng.integers(-1, 4, 60), np.array(["", "a", "b", "c"])[rng.integers(0, 4, 60)]
    known = (clusters >= 0) & (labels != "")
    found = clustering_agreement(clusters, labels)
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels[known], clusters[known]))
    assert found["ari"] == pytest.approx(adjusted_rand_score(labels[known], clusters[known]))


def test_renamed_partitions_agree_fully() -> None:
    assert clustering_agreement([2, 2, 0, 0, 1], ["x", "x", "y", "y", "z"]) == {"nmi": 1.0, "ari": 1.0}


def test_churn_after_the_best_renaming_equals_trying_all_renamings() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    best = min(np.mean(np.array(names)[before] != after) for names in itertools.permutations(range(4)))
    assert matched_churn(before, after) == pytest.approx(best)
    assert matched_churn(before, np.array([3, 0, 2, 1])[before]) == 0.0


def test_churn_of_no_samples_is_unknown() -> None:
    assert np.isnan(matched_churn(np.zeros(0, int), np.zeros(0, int)))


def test_every_name_of_the_room_is_no_module() -> None:
    # A function named like its module is hidden by it.
    modules = [name for name in monai_cluster.metrics.__all__ if not callable(getattr(monai_cluster.metrics, name))]
    assert modules == []


def test_lists_of_unequal_length_and_nothing_to_compare_are_refused() -> None:
    with pytest.raises(ValueError, match="lists of one length"):
        clustering_agreement([0, 1], ["a"])
    with pytest.raises(ValueError, match="no sample has both"):
        clustering_agreement([-1, 0], ["a", ""])
    with pytest.raises(ValueError, match="lists of one length"):
        matched_churn(np.zeros(3), np.zeros(2))
