# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Warm-up and cosine anew in every stage of a run, each stage with its own peak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["StagedWarmupCosine"]


class StagedWarmupCosine(LambdaLR):
    """Learning rate per step: in each stage a linear warm-up to the stage's peak, then half a cosine down.

    MONAI's ``WarmupCosineSchedule`` is the special case of one stage; torch's ``SequentialLR`` cannot give stages
    peaks of
    their own.

    Args:
        optimizer: its groups' ``lr`` is the peak of stages that name none.
        stages: dictionaries with ``epochs`` and optionally ``learning_rate``, as ``StageSchedule`` takes them.
        steps_per_epoch: optimiser steps (or iterations, if stepped each iteration) in an epoch.
        warmup_epochs: length of each stage's warm-up; at most half a stage is used.
        final_factor: share of the peak that is left at a stage's end (SwAV: 0.001; the paper's volume stage: 0).

    Raises:
        ValueError: for no stage of at least one epoch, fewer than one step, or numbers below zero.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        stages: Sequence[Mapping[str, Any]],
        steps_per_epoch: int,
        warmup_epochs: float = 0,
        final_factor: float = 0.0,
    ) -> None:
        lasting = [stage for stage in stages if int(stage["epochs"])]
        if not lasting or steps_per_epoch < 1 or warmup_epochs < 0 or final_factor < 0:
            raise ValueError(
                "StagedWarmupCosine needs a stage of at least one epoch, steps_per_epoch >= 1, warmup_epochs >= 0 and "
                f"final_factor >= 0, got {len(lasting)} such stages, {steps_per_epoch}, {warmup_epochs} and "
                f"{final_factor}."
            )
        base = float(optimizer.param_groups[0]["lr"])
        self.plan = [
            (int(stage["epochs"]) * steps_per_epoch, float(stage.get("learning_rate") or base) / base)
            for stage in lasting
        ]
        self.warmup_steps = round(warmup_epochs * steps_per_epoch)
        self.final_factor = final_factor
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Multiple of the optimiser's ``lr`` at a step counted from 0; past the end the last value stays."""
        stage = 0
        while step >= self.plan[stage][0] and stage + 1 < len(self.plan):
            step -= self.plan[stage][0]
            stage += 1
        length, peak = self.plan[stage]
        step = min(step, length)
        warmup = min(self.warmup_steps, length // 2)
        if step < warmup:
            return peak * (step + 1) / warmup
        progress = (step - warmup) / max(1, length - warmup)
        return peak * (self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * progress)))
