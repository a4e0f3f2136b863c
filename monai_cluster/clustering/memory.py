# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Embeddings of earlier batches: the latest ones in a queue, or one row for each sample in a bank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .distributed import all_gather_rows

__all__ = ["EmbeddingQueue", "MemoryBank"]


class EmbeddingQueue(nn.Module):
    """The last ``capacity`` embeddings, first in first out (SwAV's queue, arXiv:2006.09882, section 3.1).

    Every rank holds the same queue: a push gathers the rows of all ranks in rank order. All state is in persistent
    buffers, so a resumed run continues exactly.

    Args:
        capacity: number of rows.
        dim: D, length of one embedding.

    Raises:
        ValueError: if either is below 1.
    """

    rows: Tensor
    num_pushed: Tensor

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__()
        if capacity < 1 or dim < 1:
            raise ValueError(
                f"capacity and dim must be at least 1, got {capacity} and {dim}: leave the queue out instead."
            )
        self.capacity, self.dim = capacity, dim
        self.register_buffer("rows", torch.zeros(capacity, dim))
        self.register_buffer("num_pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Number of rows that hold an embedding."""
        return min(int(self.num_pushed), self.capacity)

    @property
    def is_full(self) -> bool:
        """Whether every row holds an embedding."""
        return len(self) == self.capacity

    @torch.no_grad()
    def push(self, embeddings: Tensor, *, distributed: bool | None = None) -> None:
        """Append a batch and forget the oldest rows.

        Args:
            embeddings: ``n D``; n may differ between ranks and may exceed the capacity.
            distributed: gather from all ranks; None does so where ``torch.distributed`` is initialised.

        Raises:
            ValueError: if the shape is not ``n D``.
        """
        _check_rows(embeddings, self.dim)
        new = all_gather_rows(embeddings, distributed).to(self.rows)
        pushed = int(self.num_pushed) + len(new)
        kept = new[-self.capacity :]
        places = torch.arange(pushed - len(kept), pushed, device=self.rows.device) % self.capacity
        self.rows[places] = kept
        self.num_pushed.fill_(pushed)

    def contents(self) -> Tensor:
        """``n D``: the embeddings held, oldest first."""
        if not self.is_full:
            return self.rows[: len(self)].clone()
        return self.rows.roll(-(int(self.num_pushed) % self.capacity), dims=0)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"capacity={self.capacity}, dim={self.dim}"


class MemoryBank(nn.Module):
    """One embedding for each sample of a data set, by its global sample index (DeepCluster-v2's memory).

    Every rank holds the same bank: an update gathers the rows of all ranks.

    Args:
        num_samples: N, number of rows.
        dim: D, length of one embedding.
        first_index: global index of the first sample, so that one stream of several keeps only its own rows.

    Raises:
        ValueError: if ``num_samples`` or ``dim`` is below 1 or ``first_index`` negative.
    """

    embeddings: Tensor
    seen: Tensor

    def __init__(self, num_samples: int, dim: int, first_index: int = 0) -> None:
        super().__init__()
        if num_samples < 1 or dim < 1 or first_index < 0:
            raise ValueError(
                "num_samples and dim must be at least 1 and first_index at least 0, got "
                f"{num_samples}, {dim} and {first_index}: take them from the data list."
            )
        self.num_samples, self.dim, self.first_index = num_samples, dim, first_index
        self.register_buffer("embeddings", torch.zeros(num_samples, dim))
        self.register_buffer("seen", torch.zeros(num_samples, dtype=torch.bool))

    @torch.no_grad()
    def update(self, embeddings: Tensor, sample_index: Tensor, *, distributed: bool | None = None) -> None:
        """Replace the rows of a batch's samples.

        Args:
            embeddings: ``n D``.
            sample_index: ``n``, global indices; each at most once over all ranks.
            distributed: gather from all ranks; None does so where ``torch.distributed`` is initialised.

        Raises:
            ValueError: if the shapes do not match, an index is outside the bank or occurs twice.
        """
        _check_rows(embeddings, self.dim)
        if sample_index.shape != embeddings.shape[:1]:
            raise ValueError(
                f"sample_index must hold one index for each of the {len(embeddings)} embeddings, got shape "
                f"{tuple(sample_index.shape)}."
            )
        index = all_gather_rows(sample_index.to(embeddings.device), distributed)
        rows = self.rows_of(index)  # after gathering, so that all ranks raise or none does
        if len(torch.unique(index)) < len(index):
            values, counts = torch.unique(index, return_counts=True)
            raise ValueError(
                f"each sample may occur once in an update, got {values[counts > 1][:5].tolist()} more than once: "
                "a bank "
                "keeps one row for each sample, so give repeated views or slices indices of their own."
            )
        self.embeddings[rows] = all_gather_rows(embeddings, distributed).to(self.embeddings)
        self.seen[rows] = True

    def rows_of(self, sample_index: Tensor) -> Tensor:
        """``n``: rows of the bank that belong to global indices.

        Raises:
            ValueError: if an index is outside the bank.
        """
        rows = sample_index.to(self.embeddings.device, torch.int64) - self.first_index
        outside = (rows < 0) | (rows >= self.num_samples)
        if outside.any():
            raise ValueError(
                f"sample_index must lie in {self.first_index} ... {self.first_index + self.num_samples - 1}, got "
                f"{sample_index[outside.to(sample_index.device)][:5].tolist()}: give num_samples and first_index "
                "as the "
                "data list numbers this stream."
            )
        return rows

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"num_samples={self.num_samples}, dim={self.dim}, first_index={self.first_index}"


def _check_rows(embeddings: Tensor, dim: int) -> None:
    if embeddings.ndim != 2 or embeddings.shape[1] != dim:
        raise ValueError(
            f"embeddings must be n {dim}, got shape {tuple(embeddings.shape)}: embedding_dim must be the "
            "projector's output."
        )
