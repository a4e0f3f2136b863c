# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Means of the trainer's reported scalars over an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Number
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor

__all__ = ["EpochMeans"]


class EpochMeans:
    """Average each scalar of ``engine.state.output`` over the iterations of the epoch that reported it.

    Attributes:
        means: name to mean, complete when the epoch is.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def reset(self, engine: Any = None) -> None:
        """Forget everything."""
        self._sums, self._counts = {}, {}

    def __call__(self, engine: Any) -> None:
        output = engine.state.output
        report = output[0] if isinstance(output, (list, tuple)) and output else output
        if not isinstance(report, Mapping):
            return
        for name, value in report.items():
            scalar = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, Number)
            if not scalar:
                continue  # other trainers report their images beside their losses
            number = float(value)
            if math.isfinite(number):
                self._sums[name] = self._sums.get(name, 0.0) + number
                self._counts[name] = self._counts.get(name, 0) + 1

    @property
    def means(self) -> dict[str, float]:
        """Name to mean, in the order of first appearance."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}
