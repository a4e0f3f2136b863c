# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Frozen encoders: for the whole run, or until the decoder has found its feet."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

__all__ = ["FreezePretrained"]


class FreezePretrained:
    """Keep a network's pretrained modules as they are in some epochs: no gradients, batch norm with its own statistics.

    The trainer's ``frozen`` lists the modules that it must keep in evaluation mode.

    Args:
        network: has ``pretrained_modules()``; the bare one, not wrapped for several GPUs.
        num_epochs: frozen epochs from the start; None for the whole run, 0 for none.

    Raises:
        ValueError: if ``num_epochs`` is negative.
    """

    def __init__(self, network: nn.Module, num_epochs: int | None = None) -> None:
        if num_epochs is not None and num_epochs < 0:
            raise ValueError(f"num_epochs must be 0 or more, or None for the whole run, got {num_epochs}.")
        self.network, self.num_epochs = network, num_epochs
        self.frozen = False

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        frozen = self.num_epochs is None or engine.state.epoch <= self.num_epochs
        # Asked for anew: converting batch norm for several GPUs replaces modules.
        levels: Sequence[Sequence[nn.Module]] = self.network.pretrained_modules()  # type: ignore[operator]
        modules = [module for level in levels for module in level]
        for module in modules:
            module.requires_grad_(not frozen)
        engine.frozen = modules if frozen else []
        if self.frozen and not frozen:
            logging.getLogger(__name__).info("epoch %d: the pretrained layers learn from here on", engine.state.epoch)
        self.frozen = frozen
