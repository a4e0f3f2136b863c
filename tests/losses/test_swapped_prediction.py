# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Swapped prediction against its closed forms, its gradient formula and the sum written as loops."""

from __future__ import annotations

import math
from collections import deque
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.clustering.sinkhorn import sinkhorn_knopp
from monai_cluster.losses import SwappedPredictionLoss, swapped_prediction_loss
from monai_cluster.losses.swapped_prediction import swapped_targets
from monai_cluster.outputs import ClusterOutput


def head_output(
    views: int, batch: int, prototypes: int, dim: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64
) -> ClusterOutput:
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(views, batch, dim, generator=generator, dtype=dtype), dim=-1)
    weight = torch.randn(prototypes, dim, generator=torch.Generator().manual_seed(99), dtype=dtype)
    weight = F.normalize(weight, dim=1)
    return ClusterOutput(embeddings, embeddings @ weight.T, weight)


def by_loops(scores: Tensor, targets: Tensor, temperature: float) -> float:
    terms = [
        -float((targets[i, b] * F.log_softmax(scores[v, b] / temperature, dim=0)).sum())
        for i, v, b in product(range(len(targets)), range(len(scores)), range(scores.shape[1]))
        if v != i
    ]
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("views", "num_global"), [(2, 2), (5, 2), (3, 1), (2, 1)])
def test_equals_the_mean_over_pairs_written_as_loops(views: int, num_global: int) -> None:
    scores = head_output(views, 7, 5).scores
    targets = torch.stack([sinkhorn_knopp(scores[view], 0.07, 4) for view in range(num_global)])
    found = swapped_prediction_loss(scores, num_global, epsilon=0.07, iterations=4, temperature=0.2)
    assert float(found) == pytest.approx(by_loops(scores, targets, 0.2), abs=1e-12)


@pytest.mark.parametrize("prototypes", [2, 30, 3000])
def test_constant_scores_cost_log_k(prototypes: int) -> None:
    scores = torch.full((4, 12, prototypes), 0.7)
    assert float(swapped_prediction_loss(scores)) == pytest.approx(math.log(prototypes), rel=1e-6)


def test_gradient_is_prediction_minus_target() -> None:
    scores = head_output(4, 6, 5).scores.requires_grad_()
    swapped_prediction_loss(scores, 2, temperature=0.1).backward()
    targets = swapped_targets(scores, 2)
    wanted = torch.zeros_like(scores)
    for i, v in product(range(2), range(4)):
        if i != v:
            wanted[v] += (F.softmax(scores[v] / 0.1, dim=-1) - targets[i]) / (0.1 * 6 * 3 * 2)
    torch.testing.assert_close(scores.grad, wanted.detach(), rtol=0, atol=1e-14)


def test_targets_are_balanced_with_the_queue_and_without_its_rows() -> None:
    scores, queue = head_output(2, 6, 5).scores, head_output(2, 20, 5, seed=3).scores
    found = swapped_targets(scores, 2, queue_scores=queue)
    for view in range(2):
        together = sinkhorn_knopp(torch.cat([scores[view], queue[view]]))
        assert torch.equal(found[view], together[:6])
    assert (found - swapped_targets(scores, 2)).abs().max() > 1e-2


@pytest.mark.parametrize(("samples", "prototypes", "wanted"), [(12, 3000, 2283), (396, 128, 1.3), (3852, 3000, 13.5)])
def test_target_perplexity_of_aligned_embeddings_is_as_derived(samples: int, prototypes: int, wanted: float) -> None:
    """Each embedding equals a random prototype of 640 dimensions: K against the samples sets how sharp targets are."""
    generator = torch.Generator().manual_seed(0)
    weight = F.normalize(torch.randn(prototypes, 640, generator=generator), dim=1)
    rows = weight[torch.randint(prototypes, (samples,), generator=generator)].expand(2, -1, -1)
    criterion = SwappedPredictionLoss(prototypes, 640)
    criterion(ClusterOutput(rows, rows @ weight.T))
    assert float(criterion.diagnostics["target_perplexity"]) == pytest.approx(wanted, rel=0.15)


def test_several_heads_are_averaged_and_reported() -> None:
    output = head_output(3, 8, 11)
    criterion = SwappedPredictionLoss([4, 7], 6)
    found = criterion(output, torch.arange(8))
    parts = [swapped_prediction_loss(scores) for scores in output.scores.split([4, 7], dim=-1)]
    assert float(found) == pytest.approx(float(sum(parts)) / 2)
    assert torch.equal(criterion.last_assignments, sinkhorn_knopp(output.scores[0, :, :4]).argmax(dim=1))
    assert float(criterion.diagnostics["uniform"]) == pytest.approx((math.log(4) + math.log(7)) / 2)
    entropies = [
        -(target * target.log()).sum(dim=-1).mean()
        for target in (swapped_targets(scores) for scores in output.scores.split([4, 7], dim=-1))
    ]
    assert float(criterion.diagnostics["target_perplexity"]) == pytest.approx(math.exp(sum(entropies) / 2))
    assert float(criterion.diagnostics["queue_active"]) == 0


def test_queue_is_filled_before_its_epoch_and_used_from_it_on() -> None:
    criterion = SwappedPredictionLoss(5, 6, queue_length=8, queue_start_epoch=3)
    history = [deque(maxlen=8), deque(maxlen=8)]
    for step in range(6):
        criterion.set_epoch(step)
        output = head_output(2, 3, 5, seed=step, dtype=torch.float32)
        expected_rows = None
        if step >= 3:
            expected_rows = torch.stack([torch.stack(list(rows)) for rows in history]) @ output.prototypes.T
        wanted = swapped_prediction_loss(output.scores, queue_scores=expected_rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # as the trainer calls it; the queue's scores stay fp32
            found = criterion(output)
        assert float(criterion.diagnostics["queue_active"]) == (step >= 3)
        assert float(found) == pytest.approx(float(wanted), rel=1e-5)
        for rows, view in zip(history, output.embeddings, strict=True):
            rows.extend(view)


def test_queue_waits_until_it_is_full_and_rests_in_evaluation() -> None:
    criterion = SwappedPredictionLoss(5, 6, queue_length=4)
    output = head_output(2, 3, 5, dtype=torch.float32)
    active = []
    for _ in range(3):
        criterion(output)
        active.append(float(criterion.diagnostics["queue_active"]))
    assert active == [0, 0, 1]
    state = {name: value.clone() for name, value in criterion.state_dict().items()}
    criterion.eval()(head_output(2, 3, 5, seed=1, dtype=torch.float32))
    assert all(torch.equal(value, state[name]) for name, value in criterion.state_dict().items())


def test_resumed_criterion_continues_as_the_uninterrupted_one() -> None:
    whole = SwappedPredictionLoss(5, 6, queue_length=7)
    for step in range(4):
        whole(head_output(2, 3, 5, seed=step, dtype=torch.float32))
    resumed = SwappedPredictionLoss(5, 6, queue_length=7)
    resumed.load_state_dict(whole.state_dict())
    output = head_output(2, 3, 5, seed=9, dtype=torch.float32)
    assert float(resumed(output)) == float(whole(output))


def test_half_precision_scores_cost_what_their_fp32_values_cost() -> None:
    output = head_output(3, 8, 5, dtype=torch.float32)
    halves = output._replace(scores=output.scores.half())
    criterion = SwappedPredictionLoss(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = criterion(halves)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(criterion(output._replace(scores=halves.scores.float()))), rel=1e-6)


def test_wrong_sizes_and_settings_are_refused_by_rule() -> None:
    output = head_output(2, 3, 5)
    with pytest.raises(ValueError, match=r"scores must have 9 prototypes \(heads of 4, 5\), got 5"):
        SwappedPredictionLoss([4, 5], 6)(output)
    with pytest.raises(ValueError, match=r"embeddings must be 2 3 8, got \(2, 3, 6\)"):
        SwappedPredictionLoss(5, 8)(output)
    with pytest.raises(ValueError, match=r"at least 3 views, got shape \(2, 3, 5\)"):
        SwappedPredictionLoss(5, 6, num_global_views=3)(output)
    with pytest.raises(ValueError, match="a queue needs the prototypes themselves"):
        SwappedPredictionLoss(5, 6, queue_length=4)(output._replace(prototypes=None))
    with pytest.raises(ValueError, match="queue_length must be 0"):
        SwappedPredictionLoss(5, 6, queue_length=-1)
    with pytest.raises(ValueError, match="num_prototypes must be one or more positive numbers, got 0"):
        SwappedPredictionLoss(0, 6)
    with pytest.raises(ValueError, match=r"epsilon and temperature positive, got 2, 3, 0 and 0\.1"):
        SwappedPredictionLoss(5, 6, epsilon=0)
    with pytest.raises(ValueError, match=r"V >= 2 views .* got shape \(1, 3, 5\)"):
        swapped_prediction_loss(output.scores[:1], 1)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        swapped_prediction_loss(output.scores, temperature=0)


def two_steps(rank: int, world: int) -> tuple[list[float], list[Tensor]]:
    """Three steps with a queue that becomes full after the second; each rank has its part of every batch."""
    criterion = SwappedPredictionLoss([4, 7], 6, queue_length=9)
    losses = []
    for step in range(4):
        output = head_output(3, 6, 11, seed=step, dtype=torch.float32)
        part = slice(rank * 3, rank * 3 + 3) if world == 2 else slice(None)
        losses.append(
            float(criterion(ClusterOutput(output.embeddings[:, part], output.scores[:, part], output.prototypes)))
        )
    return losses, [queue.contents() for queue in criterion.queues]


def test_two_ranks_with_a_queue_equal_one_process(gloo_pair) -> None:
    first, second = gloo_pair(two_steps, 2)
    losses, queues = two_steps(0, 1)
    for mine, other, whole in zip(first[0], second[0], losses, strict=True):
        assert (mine + other) / 2 == pytest.approx(whole, rel=1e-6)
    for mine, other, whole in zip(first[1], second[1], queues, strict=True):
        assert torch.equal(mine, whole)
        assert torch.equal(other, whole)
