# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Do the embeddings know a label that training never saw?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch.nn import functional as F

from monai_cluster.clustering.kmeans import spherical_kmeans
from monai_cluster.metrics.agreement import clustering_agreement
from monai_cluster.metrics.knn import knn_accuracy

from .rank import is_main_process

__all__ = ["KNNProbe"]


class KNNProbe:
    """Leave-one-out kNN accuracy, NMI and ARI against any label or metadata column, during training.

    Writes ``knn_accuracy``, ``cluster_nmi`` and ``cluster_ari`` (with the prefix) into ``engine.state.metrics``; the
    last two compare with the given clusters, or with spherical k-means into as many clusters as there are labels. Runs
    on rank 0, the other ranks get the numbers. Attach it before the handlers that log metrics.

    Args:
        embed: called without arguments; returns ``(embeddings N D, labels N)`` or ``(embeddings, labels, clusters
            N)``. Rows whose label is empty text are left out. It puts the network into eval mode and back itself.
        interval: probe every so many epochs, and after the last one.
        prefix: of the metrics' names, such as ``"image_"``.
        num_neighbours: see :func:`~monai_cluster.metrics.knn_predict`.
        temperature: see :func:`~monai_cluster.metrics.knn_predict`.
        groups: group names of the rows, see :func:`~monai_cluster.metrics.knn_predict`.

    Raises:
        ValueError: if ``interval`` is below 1.
    """

    def __init__(
        self,
        embed: Callable[[], tuple[Any, ...]],
        interval: int = 1,
        prefix: str = "",
        num_neighbours: int = 20,
        temperature: float = 0.07,
        groups: Any = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval must be at least 1 epoch, got {interval}.")
        self.embed, self.interval, self.prefix = embed, interval, prefix
        self.num_neighbours, self.temperature, self.groups = num_neighbours, temperature, groups

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        state = engine.state
        if state.epoch % self.interval and state.epoch != state.max_epochs:
            for name in ("knn_accuracy", "cluster_nmi", "cluster_ari"):  # an old value would look like a new one
                state.metrics.pop(self.prefix + name, None)
            return
        found = [self._probe() if is_main_process() else {}]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(found, src=0)
        state.metrics.update({self.prefix + name: value for name, value in found[0].items()})

    @torch.no_grad()
    def _probe(self) -> dict[str, float]:
        embeddings, labels, *rest = self.embed()
        embeddings = torch.as_tensor(embeddings).float()
        codes = _codes(labels)
        known = codes >= 0
        groups = None if self.groups is None else _codes(self.groups)[known]
        accuracy = knn_accuracy(
            embeddings[known.to(embeddings.device)],
            codes[known],
            num_neighbours=self.num_neighbours,
            temperature=self.temperature,
            groups=groups,
        )
        clusters = rest[0] if rest else self._clusters(embeddings[known.to(embeddings.device)], codes[known])
        clusters = torch.as_tensor(clusters).cpu()
        agreement = clustering_agreement(clusters[known] if rest else clusters, codes[known])
        return {"knn_accuracy": accuracy} | {f"cluster_{name}": value for name, value in agreement.items()}

    def _clusters(self, embeddings: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        clusters: torch.Tensor = spherical_kmeans(
            F.normalize(embeddings, dim=1),
            min(len(torch.unique(codes)), len(embeddings)),
            generator=generator,
            distributed=False,
        )[1]
        return clusters


def _codes(labels: Any) -> torch.Tensor:
    """Numbers for any labels; -1 for empty text."""
    import numpy as np

    values = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    codes = torch.from_numpy(np.unique(values, return_inverse=True)[1].ravel().astype(np.int64))
    if values.dtype.kind in "US":
        codes[torch.from_numpy(values == "")] = -1
    return codes
