# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Learning rates of their own for the two branches of the joint network."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["branch_parameter_groups"]

VOLUME_PARTS = ("slice_encoder.projection.", "slice_aggregator.", "volume_head.", "mask_decoder.")


def branch_parameter_groups(
    network: nn.Module, learning_rate: float, volume_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the image branch, and what only volumes train.

    The second group is the projection to slice embeddings, the aggregator, the volume prototypes and the mask decoder.
    A volume counts once where it gives dozens of slices, so these parts see few samples per step, and a rate that
    suits the encoder makes them forget.

    Args:
        network: a :class:`~monai_cluster.networks.JointClusterNet`, or one wrapped for several GPUs.
        learning_rate: of the first group, in the optimiser's units.
        volume_factor: the second group's rate as a multiple of it.

    Returns:
        One or two dictionaries with ``params`` and ``lr``; every parameter is in exactly one.

    Raises:
        ValueError: for a factor that is not positive.
    """
    if not volume_factor > 0:
        raise ValueError(f"volume_factor must be positive, got {volume_factor}: freeze the parts in a stage instead.")
    found = {name.removeprefix("module."): parameter for name, parameter in network.named_parameters()}
    volume = [parameter for name, parameter in found.items() if name.startswith(VOLUME_PARTS)]
    image = [parameter for name, parameter in found.items() if not name.startswith(VOLUME_PARTS)]
    groups = [{"params": image, "lr": learning_rate}, {"params": volume, "lr": learning_rate * volume_factor}]
    return [group for group in groups if group["params"]]
