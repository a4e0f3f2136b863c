# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From the joint loader's batch to tensors on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_cluster.keys import ClusterKeys as Keys

__all__ = ["prepare_joint_batch"]

Stream = dict[str, Any]


def prepare_joint_batch(
    batch: Mapping[str, Stream], device: str | torch.device | None = None, non_blocking: bool = False
) -> tuple[Stream | None, Stream | None]:
    """Split one joint batch into its streams, as plain tensors on ``device``.

    MetaTensors end here: indexing a batch of them is two orders of magnitude slower than indexing a tensor, and their
    type would travel through the whole network.

    Args:
        batch: ``{"images": {...}, "volumes": {...}}``; either stream may be absent.
        device: where the tensors go; None leaves them.
        non_blocking: copy asynchronously from pinned memory.

    Returns:
        ``(images, volumes)``, None for a stream that the batch lacks.

    Raises:
        ValueError: if the batch holds neither stream.
    """
    if Keys.IMAGES not in batch and Keys.VOLUMES not in batch:
        raise ValueError(
            f"a joint batch needs the key {Keys.IMAGES!r} or {Keys.VOLUMES!r}, got {sorted(batch)}: "
            "use monai_cluster.data.JointLoader, or collate into these keys."
        )

    def move(value: Any) -> Any:
        if isinstance(value, MetaTensor):
            value = value.as_tensor()
        if isinstance(value, Tensor):
            return value.to(device=device, non_blocking=non_blocking)
        if isinstance(value, (list, tuple)):
            return [move(item) for item in value]
        return value

    images, volumes = (
        {key: move(value) for key, value in batch[name].items()} if name in batch else None
        for name in (Keys.IMAGES, Keys.VOLUMES)
    )
    return images, volumes
