# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Rules for the prototypes around a training step: unit norm after it, no gradient during the first ones."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from monai_cluster.networks.prototypes import Prototypes

__all__ = ["FreezePrototypes", "NormalizePrototypes"]


def _prototypes_of(network: nn.Module) -> list[Prototypes]:
    found = [module for module in network.modules() if isinstance(module, Prototypes)]
    if not found:
        raise ValueError(
            f"{type(network).__name__} has no Prototypes module: give the network whose heads hold the prototypes."
        )
    return found


class NormalizePrototypes:
    """Bring every prototype back to unit length after each optimiser step (SwAV, arXiv:2006.09882, section 3.1).

    Args:
        network: all :class:`~monai_cluster.networks.Prototypes` inside it are normalised.

    Raises:
        ValueError: if the network has none.
    """

    def __init__(self, network: nn.Module) -> None:
        self.prototypes = _prototypes_of(network)

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        for prototypes in self.prototypes:
            prototypes.normalize_()


class FreezePrototypes:
    """Drop the prototypes' gradient during the first iterations, so that embeddings spread before clusters move.

    Args:
        network: all prototypes inside it.
        num_iterations: 313 for batches of 4096, 5005 for batches of 256 in SwAV; 0 freezes nothing.

    Raises:
        ValueError: if ``num_iterations`` is negative or the network has no prototypes.
    """

    def __init__(self, network: nn.Module, num_iterations: int) -> None:
        if num_iterations < 0:
            raise ValueError(f"num_iterations must be 0 or more, got {num_iterations}.")
        self.prototypes = _prototypes_of(network)
        self.num_iterations = num_iterations

    def attach(self, engine: Engine) -> None:
        """Register on the trainer, between backward and the optimiser step."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        if engine.state.iteration <= self.num_iterations:
            for prototypes in self.prototypes:
                prototypes.weight.grad = None
