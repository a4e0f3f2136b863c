# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""k-nearest-neighbour classification on frozen embeddings: the probe that needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["knn_accuracy", "knn_predict"]

Labels = Sequence[Any] | npt.NDArray[Any] | Tensor


def knn_predict(
    reference: Tensor | npt.NDArray[Any],
    reference_labels: Labels,
    queries: Tensor | npt.NDArray[Any] | None = None,
    *,
    num_neighbours: int = 20,
    temperature: float = 0.07,
    groups: Labels | None = None,
    chunk_size: int = 1024,
) -> npt.NDArray[Any]:
    """Class of each query by a weighted vote of its nearest neighbours (Wu et al. 2018, arXiv:1805.01978, eq. 9).

    A neighbour with cosine similarity s votes with weight exp(s / temperature); ties go to the class that sorts first.

    Args:
        reference: ``N D`` embeddings of known class, of any norm.
        reference_labels: N labels, numbers or text.
        queries: ``M D``; None classifies the reference itself, each sample without its own vote (leave one out).
        num_neighbours: how many vote; fewer where there are fewer.
        temperature: above 0; small values let the nearest one decide, large ones count heads.
        groups: leave one out only: N group names (subjects, volumes); no sample votes inside its own group.
        chunk_size: queries handled at once, which bounds memory to chunk_size times N.

    Returns:
        M labels (N without queries).

    Raises:
        ValueError: for mismatched lengths or dimensions, no reference, an option out of range, ``groups`` with queries,
            or a single group, where nobody may vote.
    """
    _check(reference, reference_labels, queries, num_neighbours, temperature, groups)
    classes, targets = _encode(reference_labels)
    keys = F.normalize(torch.as_tensor(reference).detach().float(), dim=1)
    leave_one_out = queries is None
    rows = keys if queries is None else F.normalize(torch.as_tensor(queries).detach().float().to(keys.device), dim=1)
    own = torch.arange(len(keys), device=keys.device) if groups is None else _encode(groups)[1].to(keys.device)
    targets = targets.to(keys.device)
    k = min(num_neighbours, len(keys) - leave_one_out)
    predictions = []
    for start in range(0, len(rows), chunk_size):
        similarity = rows[start : start + chunk_size] @ keys.T
        if leave_one_out:
            same = own[start : start + chunk_size, None] == own[None]
            similarity = similarity.masked_fill(same, -torch.inf)
        nearest, index = similarity.topk(k, dim=1)
        if torch.isneginf(nearest[:, 0]).any():
            raise ValueError("all samples are of one group, so that none may vote for another: drop groups.")
        # Relative to the nearest, so that a small temperature cannot overflow; an excluded sample weighs exp(-inf) = 0.
        weights = torch.exp((nearest - nearest[:, :1]).double() / temperature)
        votes = torch.zeros(len(similarity), len(classes), dtype=torch.double, device=keys.device)
        votes.scatter_add_(1, targets[index], weights)
        predictions.append(votes.argmax(1).cpu())
    found: npt.NDArray[Any] = classes[torch.cat(predictions).numpy() if predictions else np.zeros(0, np.int64)]
    return found


def knn_accuracy(
    reference: Tensor | npt.NDArray[Any],
    reference_labels: Labels,
    queries: Tensor | npt.NDArray[Any] | None = None,
    query_labels: Labels | None = None,
    *,
    num_neighbours: int = 20,
    temperature: float = 0.07,
    groups: Labels | None = None,
    chunk_size: int = 1024,
) -> float:
    """Share of queries whose class :func:`knn_predict` finds; without queries, leave-one-out accuracy of the reference.

    Args:
        reference: ``N D``.
        reference_labels: N labels.
        queries: ``M D`` or None.
        query_labels: M labels, needed with queries.
        num_neighbours: see :func:`knn_predict`.
        temperature: see :func:`knn_predict`.
        groups: see :func:`knn_predict`.
        chunk_size: see :func:`knn_predict`.

    Raises:
        ValueError: as :func:`knn_predict`, or if queries and their labels do not go together.
    """
    if (queries is None) != (query_labels is None):
        raise ValueError("queries and query_labels go together: give both, or neither for leave-one-out.")
    truth = _as_array(reference_labels if query_labels is None else query_labels)
    if queries is not None and len(truth) != len(queries):
        raise ValueError(f"one label per query is needed, got {len(truth)} labels for {len(queries)} queries.")
    predicted = knn_predict(
        reference,
        reference_labels,
        queries,
        num_neighbours=num_neighbours,
        temperature=temperature,
        groups=groups,
        chunk_size=chunk_size,
    )
    if not len(truth):
        raise ValueError("accuracy needs at least one query, got none.")
    return float(np.mean(predicted == truth))


def _as_array(labels: Labels) -> npt.NDArray[Any]:
    return labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)


def _encode(labels: Labels) -> tuple[npt.NDArray[Any], Tensor]:
    """The sorted classes and each label's place among them."""
    classes, codes = np.unique(_as_array(labels), return_inverse=True)
    return classes, torch.from_numpy(codes.astype(np.int64).ravel())


def _check(
    reference: Any, labels: Labels, queries: Any, num_neighbours: int, temperature: float, groups: Labels | None
) -> None:
    if reference.ndim != 2 or (queries is not None and (queries.ndim != 2 or queries.shape[1] != reference.shape[1])):
        shapes = [tuple(item.shape) for item in (reference, queries) if item is not None]
        raise ValueError(f"embeddings must be N D with equal D for reference and queries, got shapes {shapes}.")
    if len(labels) != len(reference):
        raise ValueError(
            f"one label per reference sample is needed, got {len(labels)} labels for {len(reference)} samples."
        )
    least = 2 if queries is None else 1
    if len(reference) < least:
        raise ValueError(f"the reference needs at least {least} samples, got {len(reference)}.")
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours must be at least 1, got {num_neighbours}.")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    if groups is not None and (queries is not None or len(groups) != len(reference)):
        raise ValueError(
            f"groups are for leave-one-out (no queries), one per sample; got {len(groups)} for {len(reference)} samples"
            f"{' and queries' if queries is not None else ''}."
        )
