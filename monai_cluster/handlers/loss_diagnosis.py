# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""When the loss says that nothing is learned: one line that names the cause and what to change."""

from __future__ import annotations

import logging
import math
from typing import Any

from ignite.engine import Engine, Events

from .epoch_means import EpochMeans
from .rank import is_main_process

__all__ = ["LossDiagnosis"]

CLUSTER_TERMS = ("image", "volume", "slice")


class LossDiagnosis:
    """Warn in the log, once per cause and ``repeat_every`` epochs, about known ways in which clustering fails.

    * **log K**: the loss stays within 2 % of log K, the value of constant scores;
    * **prototypes**: the mean target perplexity exceeds K/3, so that targets hardly tell prototypes apart;
    * **queue**: the loss jumps by more than 10 % when the queue (``image_queue_active``) starts;
    * **collapse**: std·√D of the embeddings below 0.1, or RankMe below 2;
    * **occupancy**: fewer than a tenth of the prototypes are used;
    * **mask**: masked prediction does not beat linear interpolation between the neighbours.

    It reads the scalars of ``engine.state.output`` (``image_loss``, ``image_uniform`` = log K,
    ``image_target_perplexity``, ``mask_ratio_to_neighbours``, …) and what
    :class:`~monai_cluster.handlers.ClusterHealth` wrote into ``engine.state.metrics``; attach it after that one. What
    is missing is not judged.

    Args:
        warmup_epochs: the first epochs are not judged (but for the queue).
        patience: a sign must hold for so many epochs in a row.
        repeat_every: epochs until a cause that persists is named again.

    Attributes:
        findings: ``(epoch, cause, message)`` of every warning so far; causes are named like ``image_log_k``.

    Raises:
        ValueError: if ``warmup_epochs`` is negative, or ``patience`` or ``repeat_every`` below 1.
    """

    def __init__(self, warmup_epochs: int = 1, patience: int = 3, repeat_every: int = 10) -> None:
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must be 0 or more, got {warmup_epochs}.")
        if patience < 1 or repeat_every < 1:
            raise ValueError(f"patience and repeat_every must be at least 1 epoch, got {patience} and {repeat_every}.")
        self.warmup_epochs, self.patience, self.repeat_every = warmup_epochs, patience, repeat_every
        self.means = EpochMeans()
        self.findings: list[tuple[int, str, str]] = []
        self.logger = logging.getLogger(__name__)
        self._held: dict[str, int] = {}
        self._said: dict[str, int] = {}
        self._loss_without_queue: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        self.means.attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        values, epoch = {**self.means.means, **engine.state.metrics}, engine.state.epoch
        for term in CLUSTER_TERMS:
            if f"{term}_loss" in self.means.means:
                self._judge_queue(epoch, term, values)
                if epoch > self.warmup_epochs:
                    self._judge_clusters(epoch, term, values)
        if epoch > self.warmup_epochs and "mask_loss" in self.means.means:
            self._judge_mask(epoch, values)

    def _judge_clusters(self, epoch: int, term: str, values: dict[str, float]) -> None:
        loss, log_k = values[f"{term}_loss"], values.get(f"{term}_uniform", math.nan)
        num_prototypes = math.exp(log_k) if log_k < 50 else math.nan
        perplexity = values.get(f"{term}_target_perplexity", math.nan)
        occupancy = values.get(f"{term}_occupancy", math.nan)
        std, rank = values.get(f"{term}_feature_std", math.nan), values.get(f"{term}_rank_me", math.nan)
        self._judge(
            epoch,
            f"{term}_log_k",
            abs(loss - log_k) <= 0.02 * log_k,
            f"the {term} loss sits at log K ({loss:.3f}, log K = {log_k:.3f}): predictions are uniform. Lower epsilon, "
            "freeze the prototypes longer, or use fewer prototypes; then a later queue or a larger batch.",
        )
        self._judge(
            epoch,
            f"{term}_prototypes",
            perplexity > num_prototypes / 3,
            f"{term} targets are spread over {perplexity:.0f} of {num_prototypes:.0f} prototypes: K is too large for "
            "the batch plus queue. Use fewer prototypes, a longer queue or a larger batch, or lower epsilon.",
        )
        self._judge(
            epoch,
            f"{term}_collapse",
            std < 0.1 or rank < 2,
            f"the {term} embeddings collapse (std·√D {std:.3f}, where 1 is spread and 0 a point; RankMe {rank:.1f}). "
            "Lower the learning rate, use a larger batch or stronger augmentation, remove the running mean (center), "
            "or lower epsilon.",
        )
        self._judge(
            epoch,
            f"{term}_occupancy",
            occupancy < 0.1,
            f"only {occupancy:.1%} of the {term} prototypes are used. Use fewer prototypes, freeze them longer, or "
            "use a longer queue or larger batch so that Sinkhorn can spread the samples.",
        )

    def _judge_mask(self, epoch: int, values: dict[str, float]) -> None:
        ratio = values.get("mask_ratio_to_neighbours", math.nan)
        self._judge(
            epoch,
            "mask_neighbours",
            ratio >= 1,
            f"masked slice prediction does not beat interpolation between the neighbours (loss ratio {ratio:.2f}), so "
            "it teaches nothing yet. Hide more slices or contiguous blocks of them, take every n-th slice, or train "
            "longer.",
        )

    def _judge_queue(self, epoch: int, term: str, values: dict[str, float]) -> None:
        active, loss = values.get(f"{term}_queue_active", 0.0), values[f"{term}_loss"]
        if active == 0:
            self._loss_without_queue[term] = loss
            return
        before = self._loss_without_queue.get(term, math.inf)
        if active >= 1:  # a full epoch with the queue has been compared: from here on the loss goes its own way
            self._loss_without_queue.pop(term, None)
        if loss <= 1.1 * before:
            return
        self._say(
            epoch,
            f"{term}_queue",
            f"the {term} loss jumped from {before:.3f} to {loss:.3f} when the queue started: its embeddings are too "
            "old. Start the queue later, make it shorter, or lower the learning rate.",
        )

    def _judge(self, epoch: int, cause: str, holds: bool, message: str) -> None:
        self._held[cause] = self._held.get(cause, 0) + 1 if holds else 0
        if self._held[cause] >= self.patience:
            self._say(epoch, cause, message)

    def _say(self, epoch: int, cause: str, message: str) -> None:
        if epoch - self._said.get(cause, -self.repeat_every) < self.repeat_every:
            return
        self._said[cause] = epoch
        self.findings.append((epoch, cause, message))
        if is_main_process():
            self.logger.warning("epoch %d: %s", epoch, message)
