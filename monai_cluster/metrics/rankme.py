# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Has the embedding collapsed? Effective rank and spread, without labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["effective_rank", "feature_std", "rank_me"]


def rank_me(embeddings: Tensor, epsilon: float = 1e-7) -> float:
    """RankMe: the number of directions that the embeddings really use (Garrido et al. 2023, arXiv:2210.02885).

    Args:
        embeddings: ``N D``, not centred, of any norm.
        epsilon: added to each share, as in the paper.

    Returns:
        Between 1 (all rows parallel) and min(N, D) (orthogonal directions of equal weight); 0 for all-zero embeddings.

    Raises:
        ValueError: if the embeddings are not ``N D`` with N at least 1.
    """
    _check(embeddings)
    return effective_rank(torch.linalg.svdvals(embeddings.detach().double()), epsilon)


def effective_rank(singular_values: Tensor, epsilon: float = 1e-7) -> float:
    """exp of the entropy of the singular values' shares.

    Args:
        singular_values: non-negative, one dimension.
        epsilon: added to each share.
    """
    values = singular_values.double()
    total = values.sum()
    if not total > 0:
        return 0.0
    shares = values / total + epsilon
    return float(torch.exp(-(shares * shares.log()).sum()))


def feature_std(embeddings: Tensor) -> float:
    """Spread of the normalised embeddings, std·√D averaged over dimensions.

    Args:
        embeddings: ``N D``, normalised here.

    Returns:
        1 for directions spread uniformly over the sphere, 0 for a single point (Chen & He 2021,
        arXiv:2011.10566, section 4.1).

    Raises:
        ValueError: if the embeddings are not ``N D`` with N at least 1.
    """
    _check(embeddings)
    unit = F.normalize(embeddings.detach().double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5)


def _check(embeddings: Tensor) -> None:
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(f"embeddings must be N D with at least one row, got shape {tuple(embeddings.shape)}.")
