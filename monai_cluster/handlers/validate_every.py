# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Validation between epochs, its scores beside the losses, and an end when they stop improving."""

from __future__ import annotations

import logging
import math
from typing import Any

from ignite.engine import Engine, Events

__all__ = ["ValidateEvery"]


class ValidateEvery:
    """Run an evaluator every few epochs and at the end, and stop early if asked.

    The evaluator's metrics become the trainer's, so that they stand in ``metrics.jsonl`` in the epochs that have them.
    The count of validations without improvement is part of the trainer's state: a resumed run stops when the
    uninterrupted one would have.

    Args:
        evaluator: a MONAI evaluator; None validates nothing.
        interval: epochs between validations.
        patience: end training after so many validations in a row without a new best score; 0 never ends it.

    Raises:
        ValueError: for an interval below 1, a negative patience, or patience without an evaluator.
    """

    def __init__(self, evaluator: Any | None, interval: int = 1, patience: int = 0) -> None:
        if interval < 1 or patience < 0:
            raise ValueError(f"interval must be at least 1 and patience 0 or more, got {interval} and {patience}.")
        if patience and evaluator is None:
            raise ValueError("early stopping needs validation rows, got none: name a val_split, or set patience to 0.")
        self.evaluator, self.interval, self.patience = evaluator, interval, patience
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Register on the trainer, before handlers that write metrics."""
        if self.evaluator is None:
            return
        state: Any = engine.state
        state.best_validation, state.validations_since_best = -math.inf, 0
        engine.state_dict_user_keys.extend(["best_validation", "validations_since_best"])
        engine.add_event_handler(Events.EPOCH_STARTED, self._forget)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _forget(self, engine: Any) -> None:
        # Scores of an earlier epoch must not be written again as if they were this one's.
        for name in list(engine.state.metrics):
            if name.startswith("val_"):
                del engine.state.metrics[name]

    def __call__(self, engine: Any) -> None:
        state = engine.state
        if state.epoch % self.interval and state.epoch != state.max_epochs:
            return
        assert self.evaluator is not None
        found = self.evaluator.state
        found.best_metric, found.best_metric_epoch = state.best_validation, state.epoch
        self.evaluator.run(global_epoch=state.epoch)
        state.metrics |= dict(found.metrics)
        score = float(found.metrics[found.key_metric_name])
        if score > state.best_validation:
            state.best_validation, state.validations_since_best = score, 0
        else:
            state.validations_since_best += 1
        self.logger.info("epoch %d: validation score %.4f (best %.4f)", state.epoch, score, state.best_validation)
        if self.patience and state.validations_since_best >= self.patience:
            self.logger.info(
                "no better validation score in %d validations: training ends at epoch %d of %d",
                self.patience, state.epoch, state.max_epochs,
            )  # fmt: skip
            engine.terminate()
