# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A preset's batch size for a data list that may be smaller than the preset had in mind."""

from __future__ import annotations

import logging

__all__ = ["fit_batch_size"]


def fit_batch_size(wanted: int, available: int, stream: str) -> int:
    """The wanted batch size, or as many samples as can stand in one batch, with a warning that says so.

    Args:
        wanted: samples per batch.
        available: samples that may stand in one batch; slices of one volume count once, since they are kept apart.
        stream: ``images`` or ``volumes``, for the message.

    Raises:
        ValueError: if fewer than one sample per batch is wanted.
    """
    if wanted < 1:
        raise ValueError(f"the batch size of {stream} must be at least 1, got {wanted}.")
    if available and wanted > available:
        logging.getLogger(__name__).warning(
            "batch size of %s lowered from %d to %d: the data list has no more independent samples (slices of one "
            "volume never share a batch). Clustering wants large batches; a queue makes up for part of it.",
            stream,
            wanted,
            available,
        )
        return available
    return wanted
