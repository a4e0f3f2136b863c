# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Our encoder for code that expects torchvision's ResNets."""

from __future__ import annotations

from torch import Tensor

from monai_cluster.networks.slice_encoder import SliceEncoder

from .stem import fold_stem

__all__ = ["to_torchvision_state_dict"]


def to_torchvision_state_dict(encoder: SliceEncoder, in_channels: int = 3) -> dict[str, Tensor]:
    """The backbone's tensors under torchvision's names, for ``resnet50().load_state_dict(..., strict=False)``.

    There is no ``fc``: the encoder has no classifier.

    Args:
        encoder: one of the named ResNets.
        in_channels: channels of the stem; a grey image repeated over them gives our encoder's features.

    Returns:
        copies on the CPU.

    Raises:
        ValueError: if the encoder's backbone is a module of one's own.
    """
    if not encoder.model_name:
        raise ValueError("only the named ResNets have torchvision's layout: save your own module's state dict itself.")
    state = {name: value.detach().cpu().clone() for name, value in encoder.backbone.state_dict().items()}
    if state["conv1.weight"].shape[1] != in_channels:
        state["conv1.weight"] = fold_stem(state["conv1.weight"], in_channels)
    return state
