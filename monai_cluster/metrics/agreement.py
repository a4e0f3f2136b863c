# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""How well clusters agree with labels or metadata, and with the clusters of an epoch ago."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .knn import Labels, _as_array

__all__ = ["clustering_agreement", "matched_churn"]


def clustering_agreement(clusters: Labels, labels: Labels) -> dict[str, float]:
    """Normalised mutual information and adjusted Rand index of two partitions.

    Args:
        clusters: N integers; negative ones mean "not assigned" and are left out.
        labels: N labels, numbers or text; empty text means "unknown" and is left out.

    Returns:
        ``{"nmi": ..., "ari": ...}``; 1 where the partitions are equal up to names, about 0 where they are unrelated.

    Raises:
        ValueError: for unequal lengths, or when no sample has both a cluster and a label.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    found, truth = _as_array(clusters), _as_array(labels)
    if found.shape != truth.shape or found.ndim != 1:
        raise ValueError(f"clusters and labels must be lists of one length, got {found.shape} and {truth.shape}.")
    known = (found >= 0) & (truth != "" if truth.dtype.kind in "US" else np.ones(len(truth), bool))
    if not known.any():
        raise ValueError("no sample has both a cluster (0 or more) and a label: nothing to compare.")
    found, truth = found[known], truth[known]
    return {
        "nmi": float(normalized_mutual_info_score(truth, found)),
        "ari": float(adjusted_rand_score(truth, found)),
    }


def matched_churn(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
    """Share of samples that changed their cluster, after the clusters have been renamed to match best.

    Clusters that k-means makes anew have no stable names; the best one-to-one renaming is an assignment problem.

    Args:
        before: N cluster numbers.
        after: N cluster numbers of the same samples.

    Returns:
        0 where the partitions are equal up to names, NaN for no samples.

    Raises:
        ValueError: for unequal lengths.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array

    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"partitions must be lists of one length, got shapes {before.shape} and {after.shape}.")
    if not len(before):
        return float("nan")
    rows, columns = (np.unique(item, return_inverse=True)[1].ravel() for item in (before, after))
    table = coo_array((np.ones(len(rows)), (rows, columns))).toarray()
    kept = table[linear_sum_assignment(table, maximize=True)].sum()
    return float(1.0 - kept / len(before))
