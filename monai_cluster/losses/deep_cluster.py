# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""DeepCluster-v2: predict the cluster that a sample had in the last epoch (arXiv:2006.09882, appendix)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cluster.clustering.distributed import all_gather_rows, world
from monai_cluster.clustering.kmeans import KMeansReport, spherical_kmeans
from monai_cluster.clustering.memory import MemoryBank
from monai_cluster.outputs import ClusterOutput

from .heads import as_heads, check_output, split_heads

__all__ = ["DeepClusterLoss", "deep_cluster_loss"]

UNSEEN = -100  # what cross_entropy ignores by default


def deep_cluster_loss(scores: Tensor, targets: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean cross-entropy of every view's prediction against its sample's cluster.

    Args:
        scores: ``V B K``, cosine similarity to one head's centroids.
        targets: int64 ``B``, clusters; -100 takes no part.
        temperature: τ of the predictions.

    Returns:
        A scalar: 0, with a graph and zero gradient, if no sample has a target.

    Raises:
        ValueError: if shapes do not match or the temperature is not positive.
    """
    if scores.ndim != 3 or targets.shape != scores.shape[1:2]:
        raise ValueError(
            f"scores must be V B K and targets B, got {tuple(scores.shape)} and {tuple(targets.shape)}: give one "
            "cluster a "
            "sample, the same for all its views."
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; DeepCluster-v2 uses 0.1.")
    known = len(scores) * (targets != UNSEEN).sum()
    repeated = targets.repeat(len(scores))
    total = F.cross_entropy(scores.float().flatten(0, 1) / temperature, repeated, ignore_index=UNSEEN, reduction="sum")
    return total / known.clamp_min(1)


class DeepClusterLoss(nn.Module):
    """DeepCluster-v2's criterion: a bank of the last epoch's embeddings, k-means at epoch starts, classification.

    ``forward`` predicts today's assignments and stores the embeddings; :meth:`recluster` (called by the ``Recluster``
    handler) renews assignments and returns the centroids to copy into the prototypes. Bank and assignments are
    persistent buffers, the same on every rank.

    After a call, ``diagnostics`` holds ``target_perplexity`` (1: targets are one cluster each), ``uniform`` (mean log
    K of the heads) and ``seen`` (share of the batch that has a target). ``last_assignments`` (``B``) is the first
    head's cluster, -1 where unknown.

    Args:
        num_samples: N, samples of this stream in the data list.
        first_index: global sample index of the first of them.
        num_prototypes: K of each head; the paper has three of 3000.
        embedding_dim: D.
        num_global_views: G, views whose embeddings are kept; head h clusters view h modulo G.
        temperature: τ of the predictions.
        iterations: k-means rounds.
        seed: of the k-means starts; each clustering and head draws differently.
        initial: k-means start, ``"k-means++"`` or, as in the paper and cheaper for thousands of clusters, ``"random"``.
        distributed: work with all ranks; None does so where ``torch.distributed`` is initialised.

    Raises:
        ValueError: for a parameter out of range; in a call for outputs or indices that do not fit.
    """

    assignments: Tensor
    num_clusterings: Tensor

    def __init__(
        self,
        num_samples: int,
        first_index: int = 0,
        num_prototypes: int | Sequence[int] = (3000, 3000, 3000),
        embedding_dim: int = 128,
        num_global_views: int = 2,
        temperature: float = 0.1,
        iterations: int = 10,
        seed: int = 0,
        initial: Literal["k-means++", "random"] = "random",
        distributed: bool | None = None,
    ) -> None:
        super().__init__()
        if num_global_views < 1 or iterations < 0 or seed < 0 or not temperature > 0:
            raise ValueError(
                "num_global_views must be at least 1, iterations and seed at least 0 and temperature positive, got "
                f"{num_global_views}, {iterations}, {seed} and {temperature}."
            )
        self.num_prototypes, self.embedding_dim = as_heads(num_prototypes), embedding_dim
        self.num_global_views, self.temperature, self.iterations = num_global_views, temperature, iterations
        self.seed, self.initial, self.distributed = seed, initial, distributed
        banks = (MemoryBank(num_samples, embedding_dim, first_index) for _ in range(num_global_views))
        self.banks = nn.ModuleList(banks)
        shape = (len(self.num_prototypes), num_samples)
        self.register_buffer("assignments", torch.full(shape, UNSEEN, dtype=torch.int64))
        self.register_buffer("num_clusterings", torch.zeros((), dtype=torch.int64))
        self.reports: list[KMeansReport] = []
        self.diagnostics: dict[str, Tensor] = {}
        self.last_assignments: Tensor | None = None

    def forward(self, output: ClusterOutput, sample_index: Tensor) -> Tensor:
        """The loss of one batch; in training mode its embeddings enter the bank."""
        check_output(output, self.num_prototypes, self.embedding_dim, self.num_global_views)
        targets = self.assignments[:, self._bank(0).rows_of(sample_index)]
        parts = split_heads(output.scores, self.num_prototypes)
        losses = [
            deep_cluster_loss(scores, target, temperature=self.temperature)
            for scores, target in zip(parts, targets, strict=True)
        ]
        if self.training:
            self.observe(output, sample_index)
        uniform = sum(math.log(number) for number in self.num_prototypes) / len(self.num_prototypes)
        self.diagnostics = {
            "target_perplexity": torch.tensor(1.0),
            "uniform": torch.tensor(uniform),
            "seen": (targets[0] != UNSEEN).float().mean(),
        }
        self.last_assignments = targets[0].clamp_min(-1)
        return torch.stack(losses).mean()

    def observe(self, output: ClusterOutput, sample_index: Tensor) -> None:
        """Store the global views' embeddings in the bank, without a loss."""
        for view in range(self.num_global_views):
            self._bank(view).update(output.embeddings[view], sample_index, distributed=self.distributed)

    def has_seen_samples(self) -> bool:
        """Whether the bank holds any embedding, so that it can be clustered."""
        return bool(self._bank(0).seen.any())

    @torch.no_grad()
    def recluster(self) -> list[Tensor]:
        """Cluster the bank with every head, renew the assignments and return each head's centroids (``K_h D``).

        ``reports`` then holds the k-means reports of the heads.

        Raises:
            ValueError: if no sample, or fewer than a head's prototypes, has been seen.
        """
        centroids, self.reports = [], []
        for head, number in enumerate(self.num_prototypes):
            bank = self._bank(head % self.num_global_views)
            seen = bank.seen.nonzero().flatten()
            if len(seen) < number:
                raise ValueError(
                    f"head {head} needs at least {number} embedded samples to form its clusters, got {len(seen)}: "
                    "lower "
                    "num_prototypes ('auto' chooses by the number of samples), or observe the data once before "
                    "clustering."
                )
            rank, size = world(self.distributed)
            rows = seen.tensor_split(size)[rank]  # joined in rank order they are as in one process
            draw = (self.seed * 1_000_003 + int(self.num_clusterings)) * 1_009 + head
            report = KMeansReport()
            found, clusters = spherical_kmeans(
                bank.embeddings[rows],
                number,
                self.iterations,
                initial=self.initial,
                generator=torch.Generator().manual_seed(draw),
                distributed=self.distributed,
                report=report,
            )
            self.assignments[head] = UNSEEN
            places = all_gather_rows(rows, self.distributed)
            self.assignments[head, places] = all_gather_rows(clusters, self.distributed)
            centroids.append(found)
            self.reports.append(report)
        self.num_clusterings += 1
        return centroids

    def _bank(self, view: int) -> MemoryBank:
        bank = self.banks[view]
        assert isinstance(bank, MemoryBank)
        return bank
