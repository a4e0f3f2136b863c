# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Several heads of prototypes in one scores tensor, one after another along K."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_cluster.outputs import ClusterOutput

__all__ = ["as_heads", "check_output", "split_heads"]


def as_heads(num_prototypes: int | Sequence[int]) -> tuple[int, ...]:
    """The number of prototypes of each head.

    Raises:
        ValueError: if there is no head, or one without prototypes.
    """
    heads = (num_prototypes,) if isinstance(num_prototypes, int) else tuple(int(number) for number in num_prototypes)
    if not heads or min(heads) < 1:
        raise ValueError(f"num_prototypes must be one or more positive numbers, got {num_prototypes}.")
    return heads


def split_heads(scores: Tensor, heads: Sequence[int]) -> tuple[Tensor, ...]:
    """``... K`` to one ``... K_h`` for each head."""
    return torch.split(scores, list(heads), dim=-1)


def check_output(output: ClusterOutput, heads: Sequence[int], embedding_dim: int, num_global_views: int) -> None:
    """Refuse an output whose sizes are not the criterion's.

    Raises:
        ValueError: if views, prototypes or the embedding length do not fit.
    """
    scores, embeddings = output.scores, output.embeddings
    if scores.ndim != 3 or len(scores) < max(2, num_global_views):
        raise ValueError(
            f"scores must be V B K with at least {max(2, num_global_views)} views, got shape {tuple(scores.shape)}: "
            "make that many views of each sample."
        )
    if scores.shape[-1] != sum(heads):
        raise ValueError(
            f"scores must have {sum(heads)} prototypes (heads of {', '.join(map(str, heads))}), got "
            f"{scores.shape[-1]}: "
            "give network and criterion the same num_prototypes."
        )
    if embeddings.shape != (*scores.shape[:2], embedding_dim):
        raise ValueError(
            f"embeddings must be {scores.shape[0]} {scores.shape[1]} {embedding_dim}, got {tuple(embeddings.shape)}: "
            "give the criterion the projector's embedding_dim."
        )
