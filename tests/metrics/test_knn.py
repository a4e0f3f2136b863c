# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The kNN probe against scikit-learn's, and its rules about who may vote."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from monai_cluster.metrics import knn_accuracy, knn_predict


def clouds(number: int = 90, dim: int = 6, noise: float = 1.1, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Three overlapping clouds with text labels."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(3, (number,), generator=generator)
    points = torch.eye(dim)[codes] * 2 + noise * torch.randn(number, dim, generator=generator)
    return points, np.array(["brain", "chest", "knee"])[codes.numpy()]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 0.5), (500, 1.0)])
def test_votes_equal_scikit_learns_classifier_with_the_same_weights(k: int, temperature: float) -> None:
    (reference, labels), (queries, _) = clouds(seed=0), clouds(seed=1)
    oracle = KNeighborsClassifier(
        min(k, len(reference)), metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(reference.double().numpy(), labels)
    found = knn_predict(reference, labels, queries, num_neighbours=k, temperature=temperature)
    assert found.tolist() == oracle.predict(queries.double().numpy()).tolist()


def test_leave_one_out_equals_leaving_each_sample_out_by_hand() -> None:
    points, labels = clouds(40)
    by_hand = [
        knn_predict(
            torch.cat([points[:i], points[i + 1 :]]), np.delete(labels, i), points[i : i + 1], num_neighbours=5
        )[0]
        for i in range(len(points))
    ]
    assert knn_predict(points, labels, num_neighbours=5).tolist() == by_hand
    assert knn_accuracy(points, labels, num_neighbours=5) == np.mean(np.array(by_hand) == labels)


def test_chunks_change_nothing() -> None:
    points, labels = clouds()
    whole = knn_predict(points, labels, num_neighbours=9)
    assert knn_predict(points, labels, num_neighbours=9, chunk_size=7).tolist() == whole.tolist()


def test_nobody_votes_inside_its_own_group() -> None:
    # Twins lie together and have one label each; only with groups does the other twin lose its vote.
    points = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.9, 0.3], [0.9, 0.31]])
    labels, twins = ["a", "a", "b", "b"], ["p", "p", "q", "q"]
    assert knn_accuracy(points, labels, num_neighbours=1) == 1.0
    assert knn_accuracy(points, labels, num_neighbours=1, groups=twins) == 0.0


def test_length_of_embeddings_does_not_count_and_tiny_temperatures_stay_finite() -> None:
    points, labels = clouds()
    lengths = torch.linspace(0.1, 50, len(points))[:, None]
    plain = knn_predict(points, labels, num_neighbours=9)
    assert knn_predict(points * lengths, labels, num_neighbours=9).tolist() == plain.tolist()
    nearest = knn_predict(points, labels, num_neighbours=1)
    assert knn_predict(points, labels, num_neighbours=9, temperature=1e-6).tolist() == nearest.tolist()


def test_accuracy_counts_the_right_predictions_of_queries() -> None:
    reference, labels = torch.eye(3), torch.tensor([5, 7, 9])
    queries = torch.tensor([[1.0, 0.1, 0], [0, 1.0, 0.1], [0.1, 0, 1.0], [1.0, 0.0, 0.2]])
    assert knn_accuracy(reference, labels, queries, torch.tensor([5, 7, 5, 5]), num_neighbours=1) == 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": torch.ones(3, 2, 1)}, "must be N D"),
        ({"queries": torch.ones(3, 5), "query_labels": [0, 0, 0]}, "equal D"),
        ({"reference_labels": [0, 1]}, "one label per reference sample"),
        ({"reference": torch.ones(1, 4), "reference_labels": [0]}, "at least 2 samples"),
        ({"num_neighbours": 0}, "num_neighbours must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"groups": [0]}, "groups are for leave-one-out"),
        ({"groups": [0, 0, 0]}, "all samples are of one group"),
        ({"queries": torch.ones(3, 4)}, "queries and query_labels go together"),
        ({"queries": torch.ones(3, 4), "query_labels": [1]}, "one label per query"),
        ({"queries": torch.ones(0, 4), "query_labels": []}, "at least one query"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(arguments: dict, message: str) -> None:
    given = {"reference": torch.eye(4)[:3], "reference_labels": [0, 1, 1]} | arguments
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**given)
