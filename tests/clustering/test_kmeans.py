# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Spherical k-means against NumPy's Lloyd, scikit-learn and its own promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.clustering import kmeans
from monai_cluster.clustering.kmeans import KMeansReport, spherical_kmeans
from monai_cluster.clustering.kmeans_start import choose_rows, plus_plus_rows


def directions(number: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(torch.randn(number, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=1)


def planted(number: int, clusters: int, dim: int = 16, noise: float = 0.02) -> tuple[Tensor, Tensor]:
    labels = torch.arange(number) % clusters
    return F.normalize(directions(clusters, dim)[labels] + noise * directions(number, dim, 1), dim=1), labels


def numpy_lloyd(rows: np.ndarray, centroids: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    for _ in range(iterations):
        labels = (rows @ centroids.T).argmax(axis=1)
        sums = np.stack([rows[labels == cluster].sum(axis=0) for cluster in range(len(centroids))])
        centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return centroids, (rows @ centroids.T).argmax(axis=1)


@pytest.mark.parametrize("block_bytes", [1, 4 << 20])
def test_equals_lloyd_written_in_numpy(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(kmeans, "BLOCK_BYTES", block_bytes)
    rows = directions(400, 6, dtype=torch.float64)
    centroids, labels = spherical_kmeans(rows, 12, 7, initial=rows[:12])
    wanted, wanted_labels = numpy_lloyd(rows.numpy(), rows[:12].numpy(), 7)
    np.testing.assert_allclose(centroids, wanted, atol=1e-12)
    assert labels.tolist() == wanted_labels.tolist()


def test_planted_clusters_are_found_as_scikit_learn_finds_them() -> None:
    rows, labels = planted(500, 10)
    _, found = spherical_kmeans(rows, 10)
    theirs = KMeans(10, n_init=5, random_state=0).fit(rows.numpy()).labels_
    assert normalized_mutual_info_score(labels, found) == pytest.approx(1)
    assert normalized_mutual_info_score(theirs, found) == pytest.approx(1)


def test_objective_never_falls_and_is_the_mean_similarity() -> None:
    rows, report = directions(600, 8), KMeansReport()
    centroids, labels = spherical_kmeans(rows, 40, 15, initial="random", report=report)
    assert 5 < len(report.objective) <= 16
    assert np.diff(report.objective).min() > -1e-7
    assert report.objective[-1] > report.objective[0] + 0.05
    assert report.objective[-1] == pytest.approx(float((rows * centroids[labels]).sum(dim=1).mean()), abs=1e-6)
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(40))
    assert torch.equal(labels, (rows @ centroids.T).argmax(dim=1))


def test_more_clusters_than_blobs_leave_none_empty() -> None:
    rows, _ = planted(1000, 10)
    start = rows[:1].repeat(50, 1)  # all clusters at one place: 49 start empty
    runs = []
    for _ in range(2):
        report = KMeansReport()
        centroids, labels = spherical_kmeans(rows, 50, initial=start, report=report)
        assert torch.bincount(labels, minlength=50).min() >= 1
        assert report.reseeded[0] == 49
        assert report.reseeded[-1] == 0
        assert np.diff(report.objective).min() > -1e-7
        runs.append((centroids, labels))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_reseeding_takes_the_worst_row_but_never_a_clusters_last() -> None:
    assignments = torch.tensor([0, 0, 0, 2, 2])
    similarity = torch.tensor([0.9, 0.5, 0.8, 0.1, 0.2])
    kmeans._reseed_(assignments, similarity, torch.tensor([3, 0, 2, 0]), torch.tensor([1, 3]), None)
    assert assignments.tolist() == [0, 3, 0, 1, 2]


def test_copies_of_one_row_still_fill_every_cluster() -> None:
    centroids, labels = spherical_kmeans(torch.ones(8, 3), 4)
    assert sorted(torch.bincount(labels).tolist()) == [1, 1, 1, 5]
    torch.testing.assert_close(centroids, torch.full((4, 3), 3**-0.5))


def test_length_of_rows_does_not_matter() -> None:
    rows = directions(60, 4)
    lengths = torch.linspace(0.1, 50, 60)[:, None]
    wanted = spherical_kmeans(rows, 5, initial=rows[:5])
    found = spherical_kmeans(rows * lengths, 5, initial=rows[:5] * 3)
    torch.testing.assert_close(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


def test_autocast_does_not_lower_the_precision() -> None:
    rows = directions(300, 8)
    wanted = spherical_kmeans(rows, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = spherical_kmeans(rows, 20)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


def test_bf16_products_lose_less_than_two_permille_of_the_objective() -> None:
    rows, exact, low = directions(3000, 32), KMeansReport(), KMeansReport()
    spherical_kmeans(rows, 60, initial=rows[:60], report=exact)
    centroids, labels = spherical_kmeans(rows, 60, initial=rows[:60], precision="bf16", report=low)
    assert low.objective[-1] == pytest.approx(exact.objective[-1], rel=2e-3)
    assert low.objective[-1] == pytest.approx(float((rows * centroids[labels]).sum(dim=1).mean()), abs=1e-5)
    assert centroids.dtype == torch.float32


def test_same_generator_same_result_and_caller_draws_the_start() -> None:
    rows = directions(200, 5)
    for initial in (None, "random"):
        first, again, other = (
            spherical_kmeans(rows, 9, 2, initial=initial, generator=torch.Generator().manual_seed(seed))[0]
            for seed in (3, 3, 4)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_plus_plus_seeds_every_far_cluster_where_random_rows_do_not() -> None:
    rows, labels = planted(400, 8, noise=1e-3)

    def covered(choose) -> list[int]:
        found = []
        for seed in range(20):
            seeds = choose(rows, 8, torch.Generator().manual_seed(seed))
            found.append(len(set(labels[(seeds @ rows.T).argmax(dim=1)].tolist())))
        return found

    assert min(covered(plus_plus_rows)) == 8
    assert np.mean(covered(choose_rows)) < 7


def test_random_start_takes_different_rows() -> None:
    rows = directions(30, 3)
    seeds = choose_rows(rows, 30, torch.Generator().manual_seed(0))
    assert sorted(map(tuple, seeds.tolist())) == sorted(map(tuple, rows.tolist()))


def test_wrong_arguments_are_refused_by_rule() -> None:
    rows = directions(6, 3)
    poisoned = rows.clone()
    poisoned[2, 1], poisoned[4] = torch.nan, 0
    with pytest.raises(ValueError, match=r"finite and not zero, got 2 such rows \(first of this rank: \[2, 4\]\)"):
        spherical_kmeans(poisoned, 2)
    with pytest.raises(ValueError, match="num_clusters must be at most the 6 rows, got 7"):
        spherical_kmeans(rows, 7)
    with pytest.raises(ValueError, match="num_clusters must be at least 1 and iterations at least 0, got 0 and 10"):
        spherical_kmeans(rows, 0)
    with pytest.raises(ValueError, match=r"embeddings must be N D, got shape \(1, 6, 3\)"):
        spherical_kmeans(rows[None], 2)
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.int64"):
        spherical_kmeans(rows.long(), 2)
    with pytest.raises(ValueError, match="precision must be 'fp32' or 'bf16', got 'fp8'"):
        spherical_kmeans(rows, 2, precision="fp8")
    with pytest.raises(ValueError, match=r"initial must be 2 3 .*, got \(3, 3\)"):
        spherical_kmeans(rows, 2, initial=rows[:3])
    with pytest.raises(ValueError, match="initial must be a tensor, 'k-means\\+\\+' or 'random', got 'spread'"):
        spherical_kmeans(rows, 2, initial="spread")


def split_rows(
    rank: int, rows: Tensor, cut: int, initial: Tensor | str | None
) -> tuple[Tensor, Tensor, list[float], list[int]]:
    report = KMeansReport()
    part = rows[:cut] if rank == 0 else rows[cut:]
    centroids, labels = spherical_kmeans(part, 20, initial=initial, report=report)
    return centroids, labels, report.objective, report.reseeded


@pytest.mark.parametrize("cut", [150, 37, 0])
@pytest.mark.parametrize("initial", ["one place", "k-means++", "random"])
def test_two_ranks_equal_one_process(gloo_pair, cut: int, initial: str) -> None:
    rows = directions(300, 6, dtype=torch.float64)
    start = rows[:1].repeat(20, 1) if initial == "one place" else initial
    first, second = gloo_pair(split_rows, rows, cut, start)
    report = KMeansReport()
    centroids, labels = spherical_kmeans(rows, 20, initial=start, report=report)
    assert torch.equal(first[0], second[0])
    torch.testing.assert_close(first[0], centroids, rtol=0, atol=1e-12)
    assert torch.cat([first[1], second[1]]).tolist() == labels.tolist()
    np.testing.assert_allclose(first[2], report.objective, atol=1e-12)
    assert first[3] == second[3] == report.reseeded
    assert torch.bincount(labels, minlength=20).min() >= 1
