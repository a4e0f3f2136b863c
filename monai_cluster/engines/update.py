# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From a loss to new weights: accumulation, loss scaling, clipping, and no step on broken gradients."""

from __future__ import annotations

import math
from typing import Any

from monai.engines.utils import IterationEvents
from torch import Tensor, nn

__all__ = ["accumulate_and_step"]


def accumulate_and_step(trainer: Any, loss: Tensor) -> None:
    """Backward, and an optimiser step once the batches to accumulate are complete (or the epoch ends).

    Args:
        trainer: has ``state``, ``scaler``, ``optimizer``, ``network``, ``accumulation_steps`` and ``max_grad_norm``.
        loss: of one batch.

    Raises:
        FloatingPointError: if gradients are clipped and not finite; no step is made.
    """
    length = trainer.state.epoch_length or math.inf
    place = (trainer.state.iteration - 1) % length
    if place % trainer.accumulation_steps == 0:
        trainer.optimizer.zero_grad(set_to_none=True)
    trainer.scaler.scale(loss / trainer.accumulation_steps).backward()
    trainer.fire_event(IterationEvents.BACKWARD_COMPLETED)
    if (place + 1) % trainer.accumulation_steps and place + 1 != length:
        return
    if trainer.max_grad_norm is not None:
        trainer.scaler.unscale_(trainer.optimizer)
        norm = nn.utils.clip_grad_norm_(trainer.network.parameters(), trainer.max_grad_norm)
        if not trainer.scaler.is_enabled() and not norm.isfinite():  # the scaler skips such steps by itself
            raise FloatingPointError(
                f"gradients became NaN or infinite at iteration {trainer.state.iteration} though the loss is finite; "
                "the weights were left as they were. Lower the learning rate, or switch amp off."
            )
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
