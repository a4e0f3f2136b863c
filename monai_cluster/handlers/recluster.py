# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""DeepCluster-v2's clustering of the memory bank at the start of an epoch."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_cluster.losses.deep_cluster import DeepClusterLoss
from monai_cluster.networks.prototypes import Prototypes

__all__ = ["Recluster"]


class Recluster:
    """Cluster the bank, copy the centroids into the prototypes and renew the assignments (DeepCluster-v2).

    Before the first clustering the bank is filled by one pass over the loader without training; otherwise the first
    epoch
    would have no targets. Prototypes get no gradient: they are means, not parameters to learn.

    Args:
        term: ``"image"``, ``"volume"`` or ``"slice"``: whose criterion and output are meant.
        criterion: the term's :class:`~monai_cluster.losses.DeepClusterLoss`.
        prototypes: the term's :class:`~monai_cluster.networks.Prototypes`, heads in the criterion's order.
        interval: cluster every so many epochs.

    Raises:
        TypeError: if the criterion is no DeepClusterLoss.
        ValueError: if ``interval`` is below 1.
    """

    OUTPUT_OF: ClassVar[dict[str, tuple[str, str]]] = {
        "image": ("image", "images"),
        "volume": ("volume", "volumes"),
        "slice": ("slices", "volumes"),
    }

    def __init__(self, term: str, criterion: nn.Module, prototypes: Prototypes, interval: int = 1) -> None:
        if not isinstance(criterion, DeepClusterLoss):
            raise TypeError(
                f"Recluster needs a DeepClusterLoss, got {type(criterion).__name__}: SwAV learns its prototypes."
            )
        if interval < 1:
            raise ValueError(f"interval must be at least 1 epoch, got {interval}.")
        if term not in self.OUTPUT_OF:
            raise ValueError(f"term must be one of {sorted(self.OUTPUT_OF)}, got {term!r}.")
        self.output_name, self.stream = self.OUTPUT_OF[term]
        self.term, self.criterion, self.prototypes, self.interval = term, criterion, prototypes, interval
        self.logger = logging.getLogger(__name__)
        for parameter in prototypes.parameters():
            parameter.requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        """Register on the trainer, after StageSchedule and SetEpoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        if not engine.loss_weights.get(self.term) or (engine.state.epoch - 1) % self.interval:
            return
        if not self.criterion.has_seen_samples():
            self._fill(engine)
        for head, centroids in enumerate(self.criterion.recluster()):
            self.prototypes.set_head(head, centroids)

    @torch.no_grad()
    def _fill(self, engine: Any) -> None:
        """One pass over the loader, in training mode as the embeddings of the last epoch would be."""
        self.logger.info("filling the memory bank of the %s term with one pass over the data", self.term)
        engine.network.train()
        for batch in engine.data_loader:
            images, volumes = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
            with torch.autocast(engine.state.device.type, dtype=engine.amp_dtype, enabled=engine.amp):
                output = getattr(engine.network(images, volumes), self.output_name)
            stream = {"images": images, "volumes": volumes}[self.stream]
            if output is not None and stream is not None:
                self.criterion.observe(output, stream["sample_index"])
