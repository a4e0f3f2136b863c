# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The clustering core: balanced soft assignments, spherical k-means, a queue and a bank of embeddings. Torch only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .kmeans import KMeansReport as KMeansReport
    from .kmeans import spherical_kmeans as spherical_kmeans
    from .memory import EmbeddingQueue as EmbeddingQueue
    from .memory import MemoryBank as MemoryBank
    from .sinkhorn import sinkhorn_knopp as sinkhorn_knopp

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "kmeans": ["KMeansReport", "spherical_kmeans"],
        "memory": ["EmbeddingQueue", "MemoryBank"],
        "sinkhorn": ["sinkhorn_knopp"],
    },
)
