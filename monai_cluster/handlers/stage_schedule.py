# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which losses, streams and frozen parts each stretch of epochs has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

__all__ = ["Stage", "StageSchedule"]

STREAM_OF = {"image": "images", "volume": "volumes", "mask": "volumes", "slice": "volumes"}


@dataclass(frozen=True)
class Stage:
    """A stretch of epochs with one objective.

    Attributes:
        name: shown in the log.
        epochs: how many epochs it lasts; 0 skips the stage.
        weights: λ per term (image, volume, mask, slice); absent terms are off.
        freeze: parts of the joint network that get no gradient, such as ``["slice_encoder"]``.
        learning_rate: peak of the stage, read by :class:`~monai_cluster.optimizers.StagedWarmupCosine`.
    """

    name: str
    epochs: int
    weights: Mapping[str, float]
    freeze: Sequence[str] = field(default_factory=tuple)
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"stage {self.name!r}: epochs must be 0 or more, got {self.epochs}.")
        unknown = sorted(set(self.weights) - set(STREAM_OF))
        if unknown:
            raise ValueError(
                f"stage {self.name!r}: unknown loss terms {unknown}; the terms are {', '.join(STREAM_OF)}."
            )
        if not any(self.weights.values()):
            raise ValueError(f"stage {self.name!r}: every weight is 0, so there is nothing to learn.")

    @property
    def streams(self) -> tuple[str, ...]:
        """The loader's streams that this stage's losses need."""
        needed = {STREAM_OF[term] for term, weight in self.weights.items() if weight}
        return tuple(name for name in ("images", "volumes") if name in needed)


class StageSchedule:
    """Switch loss weights, loader streams and frozen parts at stage boundaries.

    The paper trains image → mask (frozen encoder) → volume one after the other (arXiv:2212.01893, section 3); the joint
    schedule is one stage with all weights. A resumed run lands in the right stage because the epoch decides.

    Args:
        stages: :class:`Stage` objects or dictionaries of their fields, in order.
        network: the joint network (``freeze``, ``unfreeze``, ``set_terms``); not the DDP wrapper.
        loader: the joint loader (``set_streams``), or None.

    Raises:
        ValueError: for no stage, stages of 0 epochs only, or a stage whose fields are wrong.
    """

    def __init__(
        self, stages: Sequence[Stage | Mapping[str, Any]], network: nn.Module | None = None, loader: Any = None
    ) -> None:
        if not stages:
            raise ValueError("a schedule needs at least one stage, got none.")
        self.stages = [stage if isinstance(stage, Stage) else Stage(**stage) for stage in stages]
        if not self.total_epochs:
            raise ValueError("a schedule needs a stage of at least one epoch, got stages of 0 epochs only.")
        self.network, self.loader = network, loader
        self.current: Stage | None = None
        self.logger = logging.getLogger(__name__)

    @property
    def total_epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def stage_at(self, epoch: int) -> Stage:
        """The stage of an epoch, counted from 1; past the end it is the last one."""
        for stage in self.stages:
            if epoch <= stage.epochs:
                return stage
            epoch -= stage.epochs
        return next(stage for stage in reversed(self.stages) if stage.epochs)

    def attach(self, engine: Engine) -> None:
        """Register on the trainer; attach it first, since other handlers read what it sets."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        stage = self.stage_at(engine.state.epoch)
        if stage is self.current:
            return
        missing = [term for term, weight in stage.weights.items() if weight and engine.criterion(term) is None]
        if missing:
            raise ValueError(
                f"stage {stage.name!r} weighs the terms {missing}, but the trainer has no criterion for them: "
                "give the criteria or drop the terms."
            )
        engine.loss_weights = {
            term: float(stage.weights.get(term, 0.0)) for term in STREAM_OF if engine.criterion(term)
        }
        if self.network is not None:
            network: Any = self.network
            network.unfreeze(*(self.current.freeze if self.current else ()))
            network.freeze(*stage.freeze)
            network.set_terms(tuple(term for term, weight in stage.weights.items() if weight))
        if self.loader is not None:
            self.loader.set_streams(stage.streams)
        self.current = stage
        self.logger.info(
            "epoch %d: stage %r with %s%s",
            engine.state.epoch,
            stage.name,
            ", ".join(f"{term} x {weight:g}" for term, weight in stage.weights.items() if weight),
            f", frozen: {', '.join(stage.freeze)}" if stage.freeze else "",
        )
