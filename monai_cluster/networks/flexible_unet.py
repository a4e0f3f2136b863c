# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Our encoders inside MONAI's FlexibleUNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.networks.blocks import BaseEncoder
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE
from torch import Tensor

from .resnet_stages import RESNETS, ResNetStages, stage_channels_of

__all__ = ["ClusterResNetEncoder", "register_flexible_unet_encoders"]


class ClusterResNetEncoder(ResNetStages, BaseEncoder):
    """A ResNet in torchvision's layout for ``FlexibleUNet(backbone="cluster_resnet50", pretrained=path)``.

    Args:
        model_name: ``cluster_resnet18``, ``cluster_resnet34``, ``cluster_resnet50`` or ``cluster_resnet101``.
        pretrained: file or folder with encoder weights, ours or any that
            :func:`monai_cluster.weights.load_encoder_weights` reads; False starts from random ones.
        spatial_dims: 2 or 3; in 3D a file's 2D kernels are inflated.
        in_channels: channels of the input; the file's stem is folded to them.

    Raises:
        ValueError: for an unknown name, ``pretrained=True``, or a file that does not fit.
        FileNotFoundError: if the file does not exist.
    """

    def __init__(
        self,
        model_name: str = "cluster_resnet50",
        pretrained: bool | str | Path = False,
        spatial_dims: int = 2,
        in_channels: int = 1,
    ) -> None:
        super().__init__(model_name.removeprefix("cluster_"), in_channels, spatial_dims)
        if pretrained is True:
            raise ValueError("nothing is downloaded: give pretrained the path of an encoder file instead of True.")
        if pretrained:
            from monai_cluster.weights.load import load_encoder_weights  # reading files is not this room's work

            load_encoder_weights(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Five maps at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size, from ``N C H W`` or ``N C H W S``."""
        stem = self.stem(x)
        return [stem] + self.after_stem(stem)  # noqa: RUF005 (TorchScript has no unpacking)

    @classmethod
    def get_encoder_names(cls) -> list[str]:
        """Names under which FlexibleUNet finds the encoders."""
        return [f"cluster_{name}" for name in RESNETS]

    @classmethod
    def get_encoder_parameters(cls) -> list[dict[str, Any]]:
        """Constructor arguments of each encoder; FlexibleUNet overwrites all but the name."""
        return [
            {"model_name": name, "pretrained": False, "spatial_dims": 2, "in_channels": 1}
            for name in cls.get_encoder_names()
        ]

    @classmethod
    def num_channels_per_output(cls) -> list[tuple[int, ...]]:
        """Channels of each encoder's five maps."""
        return [(64, *stage_channels_of(name)) for name in RESNETS]

    @classmethod
    def num_outputs(cls) -> list[int]:
        """Maps of each encoder."""
        return [5] * len(RESNETS)


def register_flexible_unet_encoders() -> None:
    """Make ``cluster_resnet18``, ``34``, ``50`` and ``101`` known to MONAI's FlexibleUNet; repeat as you like."""
    FLEXUNET_BACKBONE.register_class(ClusterResNetEncoder)
