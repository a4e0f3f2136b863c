# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What must know that a new epoch begins: the loader, the criteria and the random generators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events

__all__ = ["SetEpoch"]


class SetEpoch:
    """Tell the epoch to everything that depends on it, and seed torch with (seed, epoch, rank).

    MONAI passes the epoch to a ``DistributedSampler`` only, never to a batch sampler of one's own. Seeding at the
    start of
    each epoch makes a run that is resumed at an epoch boundary draw the same masks and dropouts as an uninterrupted
    one.

    Args:
        seed: the run's seed, 0 or more.
        loader: has ``set_epoch(epoch)``, or None.
        criteria: those that have ``set_epoch`` are told (a queue with a start epoch); others are left alone.

    Raises:
        ValueError: if the seed is negative.
    """

    def __init__(self, seed: int, loader: Any = None, criteria: Sequence[Any] = ()) -> None:
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}.")
        self.seed = seed
        self.listeners = [item for item in (loader, *criteria) if hasattr(item, "set_epoch")]

    def attach(self, engine: Engine) -> None:
        """Register on the trainer; attach it before handlers that draw random numbers at an epoch's start."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        epoch = engine.state.epoch
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        torch.manual_seed(int(np.random.SeedSequence((self.seed, epoch, rank)).generate_state(1, np.uint64)[0]) >> 1)
        for listener in self.listeners:
            listener.set_epoch(epoch)
