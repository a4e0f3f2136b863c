# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The weights of the best validation, also across a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from .rank import is_main_process

__all__ = ["SaveBestWeights"]


class SaveBestWeights:
    """Write a network's state dict whenever its validation beats the best one so far, on rank 0 only.

    The best score is read from the evaluator's state, where ``ValidateEvery`` puts the trainer's: a resumed run goes on
    from it. MONAI's ``CheckpointSaver`` begins anew and would let a worse epoch replace the weights.

    Args:
        path: of the file, replaced as a whole or not at all; its folder is made.
        network: the bare one, not wrapped for several GPUs.
    """

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path, self.network = Path(path), network
        self.best = float("-inf")

    def attach(self, engine: Engine) -> None:
        """Register on the evaluator."""
        engine.add_event_handler(Events.STARTED, self._remember)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _remember(self, engine: Any) -> None:
        first = engine.state.best_metric_epoch == -1
        self.best = float("-inf") if first else float(engine.state.best_metric)

    def __call__(self, engine: Any) -> None:
        score = float(engine.state.metrics[engine.state.key_metric_name])
        if not score > self.best or not is_main_process():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(self.path.name + ".tmp")
        torch.save(self.network.state_dict(), unfinished)
        unfinished.replace(self.path)
