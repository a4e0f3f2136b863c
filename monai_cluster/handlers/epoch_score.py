# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One number for a whole validation epoch, from any function of the samples and their predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from ignite.metrics import Metric

__all__ = ["EpochScore"]


class EpochScore(Metric):  # type: ignore[misc]
    """Collect a part of every sample's output, then score all of them together.

    Many scores (AUC, average precision) are no means over samples. What is collected should be small: give ``collect``
    a function that counts voxels instead of keeping masks.

    Args:
        collect: ``sample with prediction -> part``.
        score: ``list of parts -> float``, or a dictionary of floats: each becomes a metric, and the first is also the
            one that this metric is attached as. Under several ranks it sees the parts of all.
    """

    def __init__(
        self, collect: Callable[[Mapping[str, Any]], Any], score: Callable[[list[Any]], float | Mapping[str, float]]
    ) -> None:
        self.collect, self.score = collect, score
        self.parts: list[Any] = []
        super().__init__()

    def reset(self) -> None:
        """Forget everything."""
        self.parts = []

    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Collect from one iteration's output."""
        with torch.inference_mode():
            self.parts += [self.collect(sample) for sample in output]

    def compute(self) -> Any:
        """Score what was collected on all ranks."""
        parts = self.parts
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
        return self.score(parts)

    def completed(self, engine: Any, name: str) -> None:
        """Write the scores of the epoch into ``engine.state.metrics``."""
        found = self.compute()
        if isinstance(found, Mapping):
            engine.state.metrics |= dict(found)
            found = next(iter(found.values()))
        engine.state.metrics[name] = float(found)
