# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""How far the run is, how long it will take, and whether it waits for data."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from ignite.engine import Engine, Events

from .epoch_means import EpochMeans
from .rank import is_main_process

__all__ = ["ProgressBar"]


class ProgressBar:
    """A bar over all iterations of the run with the time left, the loss and the share of time spent waiting for data.

    Where stderr is no terminal, one line per epoch goes to the log instead. Rank 0 only.

    Args:
        smoothing: weight of the newest loss in the running one shown, in (0, 1].
        bar: True or False force the bar or the lines; None asks stderr.

    Raises:
        ValueError: if ``smoothing`` is outside (0, 1].
    """

    def __init__(self, smoothing: float = 0.1, bar: bool | None = None) -> None:
        if not 0 < smoothing <= 1:
            raise ValueError(f"smoothing must be above 0 and at most 1, got {smoothing}.")
        self.smoothing, self.forced = smoothing, bar
        self.means = EpochMeans()
        self.logger = logging.getLogger(__name__)
        self._bar: Any = None
        self._loss: float | None = None
        self._total = 0
        self._first = 0
        self._begun = self._asked = self._waited = 0.0

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        self.means.attach(engine)
        engine.add_event_handler(Events.STARTED, self._run_started)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._data_asked)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._data_came)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def _run_started(self, engine: Any) -> None:
        self._bar, self._loss, self._begun, self._waited, self._total = None, None, 0.0, 0.0, 0

    def _data_asked(self, engine: Any) -> None:
        self._asked = time.monotonic()
        if not self._begun:  # the first batch also starts the workers, and a checkpoint has been loaded by now
            self._begun = self._asked
            self._open(engine)

    def _data_came(self, engine: Any) -> None:
        self._waited += time.monotonic() - self._asked

    def _open(self, engine: Any) -> None:
        state = engine.state
        # ignite has already counted this epoch, and possibly this iteration
        self._first = (state.epoch - 1) * (state.epoch_length or 0)
        self._total = (state.max_epochs or 0) * (state.epoch_length or 0)
        wanted = sys.stderr.isatty() if self.forced is None else self.forced
        if wanted and is_main_process():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total or None, initial=self._first, unit="it", dynamic_ncols=True, desc="train"
            )

    @property
    def data_share(self) -> float:
        """Share of the run's time spent waiting for data, 0 to 1."""
        spent = time.monotonic() - self._begun
        return self._waited / spent if self._begun and spent > 0 else 0.0

    def __call__(self, engine: Any) -> None:
        report = engine.state.output
        report = report[0] if isinstance(report, (list, tuple)) and report else report
        if isinstance(report, dict) and "loss" in report:
            loss = float(report["loss"])
            self._loss = loss if self._loss is None else self._loss + self.smoothing * (loss - self._loss)
        if self._bar is not None:
            self._bar.set_description(f"epoch {engine.state.epoch}/{engine.state.max_epochs}", refresh=False)
            shown = {} if self._loss is None else {"loss": f"{self._loss:.4f}"}
            self._bar.set_postfix(shown | {"data": f"{self.data_share:.0%}"}, refresh=False)
            self._bar.update(engine.state.iteration - self._bar.n)

    def _epoch_completed(self, engine: Any) -> None:
        if self._bar is not None or not is_main_process():
            return
        state = engine.state
        done, spent = state.iteration - self._first, time.monotonic() - self._begun
        left = spent / max(done, 1) * max(self._total - state.iteration, 0)
        means = self.means.means
        losses = ", ".join(f"{name} {means[name]:.4f}" for name in means if name.endswith("loss"))
        self.logger.info(
            "epoch %d/%d: %s%.3g s/it, %.0f%% waiting for data, %s left",
            state.epoch,
            state.max_epochs,
            losses + ", " if losses else "",
            spent / max(done, 1),
            100 * self.data_share,
            _duration(left),
        )

    def close(self, engine: Any = None) -> None:
        """Finish the bar's line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
