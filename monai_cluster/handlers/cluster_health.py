# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Are the clusters used, settled and spread? Per-epoch health without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import Tensor

from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.metrics.agreement import matched_churn
from monai_cluster.metrics.rankme import effective_rank
from monai_cluster.outputs import ClusterOutput

__all__ = ["ClusterHealth"]

# stream of the handler -> field of JointOutput, key of the batch
PLACES = {
    "image": ("image", Keys.IMAGES),
    "volume": ("volume", Keys.VOLUMES),
    "slice": ("slices", Keys.VOLUMES),
}
MEASURES = ("occupancy", "assignment_perplexity", "target_perplexity", "churn", "feature_std", "rank_me")


class ClusterHealth:
    """Write cluster health of each stream into ``engine.state.metrics`` at every epoch's end.

    For the stream ``image`` (and likewise ``volume`` and ``slice``), over all ranks:

    * ``image_occupancy``: share of the prototypes that were assigned at least one sample,
    * ``image_assignment_perplexity``: exp of the entropy of the cluster sizes, K when all are equal,
    * ``image_target_perplexity``: mean of the criterion's diagnostic of this name, if it has one,
    * ``image_churn``: share of samples met before whose cluster is another one than when last met (for criteria that
      make their clusters anew, those with ``recluster``, after the best renaming); absent in the first epoch,
    * ``image_feature_std``: std·√D of the embeddings, 1 for uniform on the sphere, 0 collapsed,
    * ``image_rank_me``: effective number of directions of at most ``max_rows`` embeddings.

    Clusters are the criterion's ``last_assignments`` (of its first head), or the nearest prototype of the first global
    view. Attach it before the handlers that log metrics. ``state_dict`` keeps the last clusters for a resumed run.

    Args:
        streams: which of ``image``, ``volume`` and ``slice`` to watch; one that did not run in an epoch is left out.
        max_rows: bound of the embeddings used, the latest of the epoch, over all ranks.

    Raises:
        ValueError: for an unknown stream or ``max_rows`` below 2.
    """

    def __init__(self, streams: Sequence[str] = ("image", "volume"), max_rows: int = 2048) -> None:
        unknown = sorted(set(streams) - set(PLACES))
        if unknown or not streams:
            raise ValueError(f"streams must be some of {', '.join(PLACES)}, got {unknown or 'none'}.")
        if max_rows < 2:
            raise ValueError(f"max_rows must be at least 2, got {max_rows}.")
        self.max_rows = max_rows
        self.streams = {name: _StreamHealth(max_rows) for name in streams}

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def state_dict(self) -> dict[str, Any]:
        """The cluster in which each sample was last met, per stream."""
        return {name: health.previous for name, health in self.streams.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave; streams that are not watched are ignored."""
        for name, health in self.streams.items():
            if name in state:
                health.previous = state[name].clone()

    def _reset(self, engine: Any) -> None:
        for health in self.streams.values():
            health.reset()

    def _collect(self, engine: Any) -> None:
        output, batch = getattr(engine.state, "joint_output", None), engine.state.batch
        for name, health in self.streams.items():
            part, key = PLACES[name]
            found = getattr(output, part, None)
            if found is None or not batch or batch.get(key) is None:
                continue
            report = engine.state.output[0] if isinstance(engine.state.output, list) else {}
            perplexity = report.get(f"{name}_target_perplexity")
            # A criterion that did not run in this step (weight 0) still holds assignments of another batch.
            ran = not report or f"{name}_loss" in report
            criterion = getattr(engine, f"{name}_criterion", None) if ran else None
            health.update(found, batch[key][Keys.SAMPLE_INDEX], criterion, perplexity)

    def __call__(self, engine: Any) -> None:
        for name, health in self.streams.items():
            for measure in MEASURES:
                engine.state.metrics.pop(f"{name}_{measure}", None)
            engine.state.metrics.update({f"{name}_{measure}": value for measure, value in health.compute().items()})


class _StreamHealth:
    """What one stream gathers during an epoch, and the clusters it remembers between epochs."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.previous = torch.zeros(0, dtype=torch.int64)
        self.reset()

    def reset(self) -> None:
        self.current = torch.zeros(0, dtype=torch.int64)
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.rows: list[Tensor] = []
        self.perplexity = torch.zeros(2, dtype=torch.float64)  # sum, number of iterations
        self.renamed = False

    def update(self, found: ClusterOutput, sample_index: Tensor, criterion: Any, perplexity: float | None) -> None:
        """Take one iteration's clusters and embeddings."""
        scores, embeddings = found.scores[0], found.embeddings[0]
        size = _first_head(criterion, scores.shape[-1])
        clusters = getattr(criterion, "last_assignments", None)
        if clusters is None or len(clusters) != len(scores):
            clusters = scores[:, :size].argmax(1)
        clusters = clusters.detach().cpu()
        known = clusters >= 0
        if len(self.counts) < size:
            self.counts = _grown(self.counts, size, 0.0)
        self.counts += torch.bincount(clusters[known], minlength=size).double()
        index = sample_index.detach().cpu()
        if len(index) == len(clusters):  # several slices of one sample have no single cluster to remember
            self.current = _grown(self.current, int(index.max()) + 1, -1)
            self.current[index[known]] = clusters[known]
        self._keep(embeddings.detach())
        if perplexity is not None and math.isfinite(perplexity):
            self.perplexity += torch.tensor([perplexity, 1.0], dtype=torch.float64)
        self.renamed = hasattr(criterion, "recluster")

    def _keep(self, rows: Tensor) -> None:
        self.rows.append(rows)
        while len(self.rows) > 1 and sum(map(len, self.rows[1:])) >= self.max_rows:
            self.rows.pop(0)

    def compute(self) -> dict[str, float]:
        """The epoch's measures over all ranks; empty if the stream did not run."""
        self.counts = _reduced(_grown(self.counts, _largest(len(self.counts)), 0.0), "sum")
        if not len(self.counts):
            return {}
        result: dict[str, float] = {}
        total = self.counts.sum()
        if total > 0:
            shares = self.counts[self.counts > 0] / total
            result["occupancy"] = float((self.counts > 0).double().mean())
            result["assignment_perplexity"] = float(torch.exp(-(shares * shares.log()).sum()))
        summed, times = _reduced(self.perplexity, "sum").tolist()
        if times:
            result["target_perplexity"] = summed / times
        return result | self._churn() | self._spread()

    def _churn(self) -> dict[str, float]:
        length = _largest(max(len(self.current), len(self.previous)))
        current = _reduced(_grown(self.current, length, -1), "max")
        previous = _grown(self.previous, length, -1)
        again = (current >= 0) & (previous >= 0)
        self.previous = torch.where(current >= 0, current, previous)
        if not again.any():
            return {}
        before, after = previous[again], current[again]
        if self.renamed:
            return {"churn": matched_churn(before.numpy(), after.numpy())}
        return {"churn": float((before != after).double().mean())}

    def _spread(self) -> dict[str, float]:
        """Spread and rank from moments, which add up over ranks without gathering rows."""
        world = dist.get_world_size() if _is_distributed() else 1
        rows = torch.cat(self.rows)[-max(1, self.max_rows // world) :].cpu().double() if self.rows else None
        width = _largest(0 if rows is None else rows.shape[1])
        if rows is None:
            rows = torch.zeros(0, width, dtype=torch.float64)
        moments = _reduced(
            torch.cat([rows.T @ rows, rows.sum(0)[None], torch.full((1, width), float(len(rows)))]), "sum"
        )
        gram, mean = moments[:width], moments[width] / moments[-1, 0]
        variance = (gram.diagonal() / moments[-1, 0] - mean**2).clamp_min(0)
        values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
        return {
            "feature_std": float(variance.sqrt().mean() * width**0.5),
            "rank_me": effective_rank(values),
        }


def _first_head(criterion: Any, total: int) -> int:
    """K of the head that the assignments belong to."""
    sizes = getattr(criterion, "num_prototypes", total)
    first = sizes if isinstance(sizes, int) else next(iter(sizes), total)
    return min(int(first), total)


def _grown(values: Tensor, length: int, fill: float) -> Tensor:
    if len(values) >= length:
        return values
    return torch.cat([values, torch.full((length - len(values),), fill, dtype=values.dtype)])


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _reduced(values: Tensor, how: str) -> Tensor:
    """All-reduced over ranks, on the device that the backend needs, back on the CPU."""
    if not _is_distributed() or not values.numel():
        return values
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    shared = values.to(device, copy=True)
    dist.all_reduce(shared, op=dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
    return shared.cpu()


def _largest(length: int) -> int:
    return int(_reduced(torch.tensor([length]), "max"))
