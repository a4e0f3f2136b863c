# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""DeepCluster-v2's criterion against cross-entropy written out, scikit-learn's partition and one process."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.losses import DeepClusterLoss, deep_cluster_loss
from monai_cluster.outputs import ClusterOutput


def blobs(number: int, clusters: int, dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(clusters, dim, generator=generator), dim=1)
    labels = torch.arange(number) % clusters
    return F.normalize(centres[labels] + 0.02 * torch.randn(number, dim, generator=generator), dim=1), labels


def as_output(rows: Tensor, centroids: Tensor, views: int = 2) -> ClusterOutput:
    embeddings = rows.expand(views, -1, -1)
    return ClusterOutput(embeddings, embeddings @ centroids.T, centroids)


def test_loss_is_cross_entropy_over_views_of_the_samples_with_a_target() -> None:
    scores = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    targets = torch.tensor([2, -100, 0, 4])
    terms = [-F.log_softmax(scores[v, b] / 0.1, dim=0)[targets[b]] for v in range(3) for b in (0, 2, 3)]
    assert float(deep_cluster_loss(scores, targets)) == pytest.approx(float(sum(terms)) / 9, rel=1e-6)


def test_a_batch_without_targets_costs_nothing_and_has_a_zero_gradient() -> None:
    rows, _ = blobs(6, 3)
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    criterion = DeepClusterLoss(6, num_prototypes=[2, 3], embedding_dim=8)
    loss = criterion(as_output(rows, weight), torch.arange(6))
    loss.backward()
    assert loss.item() == 0
    assert weight.grad.eq(0).all()
    assert criterion.last_assignments.tolist() == [-1] * 6
    assert float(criterion.diagnostics["seen"]) == 0
    assert criterion.has_seen_samples()


def test_reclustering_finds_the_blobs_and_predicting_them_is_cheap() -> None:
    rows, labels = blobs(60, 5)
    criterion = DeepClusterLoss(60, first_index=100, num_prototypes=[5, 5], embedding_dim=8, initial="k-means++")
    index = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for part in index.split(13):
        criterion(as_output(rows[part], torch.zeros(10, 8)), part + 100)
    centroids = criterion.recluster()
    assert [tuple(part.shape) for part in centroids] == [(5, 8), (5, 8)]
    assert all(report.reseeded[-1] == 0 for report in criterion.reports)
    for assigned in criterion.assignments:
        assert adjusted_rand_score(labels, assigned) == 1
    for head, found in enumerate(centroids):
        assert torch.equal(criterion.assignments[head], (rows @ found.T).argmax(dim=1))
    loss = criterion(as_output(rows[:7], torch.cat(centroids)), torch.arange(100, 107))
    targets = [(rows[:7] @ found.T).argmax(dim=1) for found in centroids]
    wanted = sum(F.cross_entropy(rows[:7] @ c.T / 0.1, t) for c, t in zip(centroids, targets, strict=True)) / 2
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    assert float(loss) < 0.5 * math.log(5)
    assert torch.equal(criterion.last_assignments, targets[0])
    assert float(criterion.diagnostics["uniform"]) == pytest.approx(math.log(5))
    assert float(criterion.diagnostics["seen"]) == 1


def test_heads_cluster_the_views_in_turn() -> None:
    first, _ = blobs(40, 4)
    second, _ = blobs(40, 4, seed=5)
    criterion = DeepClusterLoss(40, num_prototypes=[4, 4, 4], embedding_dim=8)
    embeddings = torch.stack([first, second])
    criterion.observe(ClusterOutput(embeddings, torch.zeros(2, 40, 12)), torch.arange(40))
    for head, (found, report) in enumerate(zip(criterion.recluster(), criterion.reports, strict=True)):
        mine, other = (first, second) if head % 2 == 0 else (second, first)
        fit = float((mine @ found.T).max(dim=1).values.mean())
        assert fit == pytest.approx(report.objective[-1], abs=1e-5)
        assert fit > float((other @ found.T).max(dim=1).values.mean()) + 0.1


def test_unseen_samples_keep_no_target_and_old_targets_are_forgotten() -> None:
    rows, _ = blobs(20, 4)
    criterion = DeepClusterLoss(30, num_prototypes=[4], embedding_dim=8)
    criterion.observe(as_output(rows, rows[:4]), torch.arange(20))
    criterion.assignments.fill_(3)
    criterion.recluster()
    assert criterion.assignments[0, 20:].tolist() == [-100] * 10
    assert criterion.assignments[0, :20].min() >= 0


def test_evaluation_leaves_the_bank_alone() -> None:
    rows, _ = blobs(6, 3)
    criterion = DeepClusterLoss(6, num_prototypes=[3], embedding_dim=8).eval()
    criterion(as_output(rows, rows[:3]), torch.arange(6))
    assert not criterion.has_seen_samples()


def test_resumed_criterion_clusters_as_the_uninterrupted_one() -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    whole = DeepClusterLoss(50, num_prototypes=[7], embedding_dim=8)
    whole.observe(as_output(F.normalize(rows, dim=1), rows[:7]), torch.arange(50))
    first = whole.recluster()[0]
    resumed = DeepClusterLoss(50, num_prototypes=[7], embedding_dim=8)
    resumed.load_state_dict(whole.state_dict())
    second, again = whole.recluster()[0], resumed.recluster()[0]
    assert torch.equal(second, again)
    assert not torch.equal(first, second)  # each clustering starts elsewhere
    assert torch.equal(whole.assignments, resumed.assignments)


def test_wrong_sizes_indices_and_settings_are_refused_by_rule() -> None:
    rows, _ = blobs(6, 3)
    criterion = DeepClusterLoss(6, num_prototypes=[4], embedding_dim=8)
    with pytest.raises(ValueError, match=r"must lie in 0 \.\.\. 5, got \[6\]"):
        criterion(as_output(rows, rows[:4]), torch.tensor([0, 1, 2, 3, 4, 6]))
    with pytest.raises(ValueError, match=r"got \[2\] more than once"):
        criterion(as_output(rows, rows[:4]), torch.tensor([0, 1, 2, 2, 4, 5]))
    criterion.observe(as_output(rows[:3], rows[:4]), torch.arange(3))
    with pytest.raises(ValueError, match=r"head 0 needs at least 4 embedded samples .* got 3"):
        criterion.recluster()
    with pytest.raises(ValueError, match="iterations and seed at least 0 and temperature positive, got 2, -1, 0 and"):
        DeepClusterLoss(6, iterations=-1)
    with pytest.raises(ValueError, match=r"scores must be V B K and targets B, got \(2, 3, 4\) and \(2,\)"):
        deep_cluster_loss(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        deep_cluster_loss(torch.zeros(2, 3, 4), torch.zeros(3, dtype=torch.int64), temperature=0)


def one_epoch(rank: int, world: int, initial: str) -> tuple[list[Tensor], Tensor, float]:
    rows = F.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(3)), dim=1)
    criterion = DeepClusterLoss(41, num_prototypes=[5, 6], embedding_dim=8, initial=initial)
    for batch in torch.arange(40).split(8):
        part = batch[rank * 4 : rank * 4 + 4] if world == 2 else batch
        criterion.observe(as_output(rows[part], rows[:11]), part)
    centroids = criterion.recluster()
    part = torch.arange(8)[rank * 4 : rank * 4 + 4] if world == 2 else torch.arange(8)
    loss = criterion(as_output(rows[part], torch.cat(centroids)), part)
    return centroids, criterion.assignments, float(loss)


@pytest.mark.parametrize("initial", ["random", "k-means++"])
def test_two_ranks_equal_one_process(gloo_pair, initial: str) -> None:
    first, second = gloo_pair(one_epoch, 2, initial)
    centroids, assignments, loss = one_epoch(0, 1, initial)
    for mine, other, whole in zip(first[0], second[0], centroids, strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, whole, rtol=0, atol=1e-6)
    assert torch.equal(first[1], assignments)
    assert torch.equal(second[1], assignments)
    assert assignments[:, 40].tolist() == [-100, -100]
    assert (first[2] + second[2]) / 2 == pytest.approx(loss, rel=1e-5)
