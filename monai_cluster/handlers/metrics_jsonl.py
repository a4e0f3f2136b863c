# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One JSON object per epoch in a file that anything can read."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from .epoch_means import EpochMeans
from .rank import is_main_process

__all__ = ["MetricsJsonl"]


class MetricsJsonl:
    """Append each epoch's numbers to a JSON-lines file, on rank 0 only.

    A line holds ``epoch``, ``iteration``, ``time`` (Unix seconds), ``epoch_seconds``, ``lr`` (of the first parameter
    group), the mean over the epoch of every scalar in ``engine.state.output``, and all of ``engine.state.metrics``.
    NaN and infinity become null. A resumed run drops the lines of epochs that it repeats, and a line that a crash left
    unfinished. Attach it after the handlers that write metrics.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.means = EpochMeans()
        self._trimmed = False
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        self.means.attach(engine)
        engine.add_event_handler(Events.STARTED, self._run_started)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _run_started(self, engine: Any) -> None:
        self._trimmed = False

    def _epoch_started(self, engine: Any) -> None:
        # Not at STARTED: a checkpoint loader may set the epoch there after this handler.
        self._started = time.monotonic()
        if not self._trimmed and is_main_process():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():
                self._drop_from(engine.state.epoch)
        self._trimmed = True

    def _drop_from(self, epoch: int) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if (known := _epoch_of(line)) is not None and known < epoch]
        if len(kept) < len(lines):
            unfinished = self.path.with_name(self.path.name + ".tmp")
            unfinished.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            unfinished.replace(self.path)

    def __call__(self, engine: Any) -> None:
        if not is_main_process():
            return
        state, optimizer = engine.state, getattr(engine, "optimizer", None)
        record: dict[str, Any] = {
            "epoch": state.epoch,
            "iteration": state.iteration,
            "time": round(time.time(), 3),
            "epoch_seconds": round(time.monotonic() - self._started, 3),
        }
        if optimizer is not None:
            record["lr"] = optimizer.param_groups[0]["lr"]
        record |= self.means.means | dict(state.metrics)
        line = json.dumps({name: _plain(value) for name, value in record.items()}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _plain(value: Any) -> Any:
    """As JSON knows it: numbers, text, lists; NaN and infinity are null."""
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, torch.Tensor):
        return _plain(value.detach().cpu().tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else None


def _epoch_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return None
