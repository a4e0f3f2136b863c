# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Swapped prediction: one view's balanced assignment is predicted from the other views (SwAV, arXiv:2006.09882)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cluster.clustering.distributed import share_of_rows
from monai_cluster.clustering.memory import EmbeddingQueue
from monai_cluster.clustering.sinkhorn import sinkhorn_knopp
from monai_cluster.outputs import ClusterOutput

from .heads import as_heads, check_output, split_heads

__all__ = ["SwappedPredictionLoss", "swapped_prediction_loss", "swapped_targets"]


@torch.no_grad()
def swapped_targets(
    scores: Tensor,
    num_global_views: int = 2,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    queue_scores: Tensor | None = None,
    distributed: bool | None = None,
) -> Tensor:
    """Balanced assignments of each global view's samples, the targets of the other views.

    Args:
        scores: ``V B K``, the G global views first.
        num_global_views: G.
        epsilon: Sinkhorn's entropy.
        iterations: Sinkhorn's rounds.
        queue_scores: ``G n K``, scores of earlier samples that take part in balancing and are then dropped.
        distributed: balance over all ranks; None does so where ``torch.distributed`` is initialised.

    Returns:
        ``G B K``, rows sum to 1.
    """
    batch = scores.shape[1]
    targets = []
    for view in range(num_global_views):
        rows = scores[view]
        if queue_scores is not None:
            rows = torch.cat([rows.to(queue_scores.dtype), queue_scores[view]])
        targets.append(sinkhorn_knopp(rows, epsilon, iterations, distributed=distributed)[:batch])
    return torch.stack(targets)


def swapped_prediction_loss(
    scores: Tensor,
    num_global_views: int = 2,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    temperature: float = 0.1,
    queue_scores: Tensor | None = None,
    distributed: bool | None = None,
) -> Tensor:
    """SwAV's loss: the mean of ``-q_i · log softmax(S_v / τ)`` over global views i, views v ≠ i and samples.

    Args:
        scores: ``V B K``, cosine similarity to the prototypes, the G global views first.
        num_global_views: G; at least 1, with V ≥ 2.
        epsilon: Sinkhorn's entropy.
        iterations: Sinkhorn's rounds.
        temperature: τ of the predictions.
        queue_scores: ``G n K``, see :func:`swapped_targets`.
        distributed: balance over all ranks; None does so where ``torch.distributed`` is initialised.

    Returns:
        A scalar; the mean over this rank's samples.

    Raises:
        ValueError: if the scores are not ``V B K`` with 1 ≤ G ≤ V and V ≥ 2, or the temperature is not positive.
    """
    if scores.ndim != 3 or not 1 <= num_global_views <= len(scores) or len(scores) < 2:
        raise ValueError(
            f"scores must be V B K with V >= 2 views of which 1 to V are global, got shape {tuple(scores.shape)} and "
            f"num_global_views={num_global_views}: give at least two views of each sample."
        )
    targets = swapped_targets(
        scores,
        num_global_views,
        epsilon=epsilon,
        iterations=iterations,
        queue_scores=queue_scores,
        distributed=distributed,
    )
    return _cross_entropy(scores, targets, temperature)


def _cross_entropy(scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; SwAV uses 0.1.")
    views, batch, _ = scores.shape
    predictions = F.log_softmax(scores.to(targets.dtype) / temperature, dim=-1)
    everyone = targets.sum(dim=0)  # view v predicts all global targets but its own
    wanted = torch.stack([everyone - targets[view] if view < len(targets) else everyone for view in range(views)])
    return -(wanted * predictions).sum() / (batch * len(targets) * (views - 1))


class SwappedPredictionLoss(nn.Module):
    """SwAV's criterion with one or several heads and an optional queue of earlier embeddings.

    The queue is filled from the first batch on, so that it is full when its start epoch comes; each global view has
    its own.

    After a call, ``diagnostics`` holds ``target_perplexity`` (exp of the mean entropy of a sample's target: near 1
    sharp, near K uninformative), ``uniform`` (log K, the loss of a collapsed network) and ``queue_active`` (0 or 1);
    for several heads the means over heads, the perplexity's in the logarithm. ``last_assignments`` (``B``) is the
    most likely prototype of the first head for the first global view.

    Args:
        num_prototypes: K, or one K for each head; scores hold the heads one after another.
        embedding_dim: D, length of the embeddings; needed for the queue only.
        num_global_views: G, views that give targets.
        epsilon: Sinkhorn's entropy.
        iterations: Sinkhorn's rounds.
        temperature: τ of the predictions.
        queue_length: embeddings of each global view to keep over all ranks; 0 keeps none. SwAV: 3840 for small batches.
        queue_start_epoch: the queue takes part from this epoch on, as :meth:`set_epoch` counts. SwAV: 15.
        distributed: balance over all ranks; None does so where ``torch.distributed`` is initialised.

    Raises:
        ValueError: for a parameter out of range; in a call for outputs of other sizes, or a queue without prototypes.
    """

    def __init__(
        self,
        num_prototypes: int | Sequence[int],
        embedding_dim: int,
        num_global_views: int = 2,
        epsilon: float = 0.05,
        iterations: int = 3,
        temperature: float = 0.1,
        queue_length: int = 0,
        queue_start_epoch: int = 0,
        distributed: bool | None = None,
    ) -> None:
        super().__init__()
        if num_global_views < 1 or not epsilon > 0 or iterations < 1 or not temperature > 0:
            raise ValueError(
                "num_global_views and iterations must be at least 1, epsilon and temperature positive, got "
                f"{num_global_views}, {iterations}, {epsilon} and {temperature}; SwAV uses 2, 3, 0.05 and 0.1."
            )
        if queue_length < 0:
            raise ValueError(f"queue_length must be 0 (no queue) or more, got {queue_length}.")
        self.num_prototypes, self.embedding_dim = as_heads(num_prototypes), embedding_dim
        self.num_global_views, self.temperature = num_global_views, temperature
        self.epsilon, self.iterations = epsilon, iterations
        self.queue_start_epoch, self.distributed, self.epoch = queue_start_epoch, distributed, 0
        views = num_global_views if queue_length else 0
        self.queues = nn.ModuleList(EmbeddingQueue(queue_length, embedding_dim) for _ in range(views))
        self.diagnostics: dict[str, Tensor] = {}
        self.last_assignments: Tensor | None = None

    def set_epoch(self, epoch: int) -> None:
        """Tell the current epoch, for the queue's start."""
        self.epoch = epoch

    def forward(self, output: ClusterOutput, sample_index: Tensor | None = None) -> Tensor:
        """The loss of one batch; ``sample_index`` is not needed and taken so that criteria are interchangeable."""
        check_output(output, self.num_prototypes, self.embedding_dim, self.num_global_views)
        queue_scores = self._queue_scores(output)
        waiting = split_heads(queue_scores, self.num_prototypes) if queue_scores is not None else None
        losses, entropies = [], []
        for head, scores in enumerate(split_heads(output.scores, self.num_prototypes)):
            targets = swapped_targets(
                scores,
                self.num_global_views,
                epsilon=self.epsilon,
                iterations=self.iterations,
                queue_scores=None if waiting is None else waiting[head],
                distributed=self.distributed,
            )
            losses.append(_cross_entropy(scores, targets, self.temperature))
            entropies.append(torch.special.entr(targets).sum(dim=-1).mean())
            if head == 0:
                self.last_assignments = targets[0].argmax(dim=1)
        if self.training:
            for queue, embeddings in zip(self._queue_list(), output.embeddings, strict=False):
                queue.push(embeddings, distributed=self.distributed)
        uniform = sum(math.log(number) for number in self.num_prototypes) / len(self.num_prototypes)
        self.diagnostics = {
            "target_perplexity": torch.stack(entropies).mean().exp(),
            "uniform": torch.tensor(uniform),
            "queue_active": torch.tensor(float(queue_scores is not None)),
        }
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _queue_scores(self, output: ClusterOutput) -> Tensor | None:
        """``G n K``: this rank's share of the queue against today's prototypes, or None while the queue is not used."""
        if not self.queues:
            return None
        if output.prototypes is None:
            raise ValueError(
                "a queue needs the prototypes themselves, got a ClusterOutput without: return prototypes (K D, "
                "no gradient) "
                "from the head, or set queue_length=0."
            )
        if self.epoch < self.queue_start_epoch or not all(queue.is_full for queue in self._queue_list()):
            return None
        with torch.autocast(output.scores.device.type, enabled=False):
            prototypes = F.normalize(output.prototypes.detach().float(), dim=1)
            shares = torch.stack([share_of_rows(queue.rows, self.distributed) for queue in self._queue_list()])
            return shares @ prototypes.T

    def _queue_list(self) -> list[EmbeddingQueue]:
        return [queue for queue in self.queues if isinstance(queue, EmbeddingQueue)]
