# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The 2D encoder that images and slices share, with a multi-level embedding per slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cluster.outputs import SliceFeatures

from .checkpointing import checkpoint_with_batch_norm
from .resnet_stages import ResNetStages
from .spatial_mean import spatial_mean

__all__ = ["SliceEmbedder", "SliceEncoder", "as_channels_last"]


def as_channels_last(x: Tensor) -> Tensor:
    """``N C H W`` in channels-last memory, also where C is 1 and PyTorch would take either layout for granted.

    A one-channel tensor is contiguous both ways, so ``contiguous(memory_format=...)`` leaves its strides, and the first
    convolution then runs (and returns) NCHW.
    """
    if x.shape[1] == 1:
        height, width = x.shape[2:]
        return x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))
    return x.contiguous(memory_format=torch.channels_last)


def _refuse_one_pixel_maps(x: Tensor) -> None:
    """Stop where autocast on a CPU would compute a ResNet from memory that was never written (garbage or NaN).

    PyTorch 2.13 does so in the weight gradients of a 3 × 3 bfloat16 convolution with stride 2 on a map of one pixel, as
    enters the last stage from a side of 16 px or less, and in the forward pass on maps that are one pixel wide and
    several high.
    """
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return
    height, width = x.shape[2:]
    if torch.is_grad_enabled() and min(height, width) <= 16:
        raise ValueError(
            "images with a side of 16 px or less get wrong gradients in autocast on a CPU, got "
            f"{tuple(x.shape[2:])} px: use larger views, or switch amp off."
        )
    if any(width <= stride < height for stride in (4, 8, 16, 32)):
        raise ValueError(
            "images whose maps become one pixel wide but not one pixel high are computed wrongly in autocast on a CPU, "
            f"got {tuple(x.shape[2:])} px: pad them to a square, make them wider than 32 px, or switch amp off."
        )


class SliceEncoder(nn.Module):
    """Encode images or slices one by one (the paper's ``f_intra``, arXiv:2212.01893, section 3).

    The slice embedding pools every stage, normalises each to unit length so that no stage drowns another, concatenates
    them (3840 numbers for ResNet-50) and projects linearly.

    Args:
        model: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``, or a module with ``stage_channels`` whose
            forward returns the stages' maps, finest first.
        in_channels: channels of the input; 1 for medical images (three-channel weights are folded on loading).
        embedding_dim: D, length of the slice embedding.
        levels: stages in the embedding, counted from 1.
        duplicate_last_level: append the last level twice, as the authors' projection (5888 inputs) expects.
        chunk_size: encode at most so many slices at once; None all. In training mode batch norm sees each chunk by
            itself, so results differ slightly from the whole; in evaluation mode they are the same.
        checkpointing: keep only each chunk's input and recompute the rest in the backward pass (about a third more
            time); running statistics are updated once all the same.

    Raises:
        ValueError: for unknown models or levels, or sizes below 1.
        TypeError: if ``model`` is a module without ``stage_channels``.
    """

    def __init__(
        self,
        model: str | nn.Module = "resnet50",
        in_channels: int = 1,
        embedding_dim: int = 640,
        levels: Sequence[int] = (1, 2, 3, 4),
        duplicate_last_level: bool = False,
        chunk_size: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("embedding_dim", embedding_dim), ("chunk_size", chunk_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.model_name = model if isinstance(model, str) else ""
        self.backbone: nn.Module = ResNetStages(model, in_channels) if isinstance(model, str) else model
        channels = getattr(self.backbone, "stage_channels", None)
        if channels is None:
            raise TypeError(
                f"{type(model).__name__} has no stage_channels: give a module with this attribute whose forward "
                "returns one map per stage, or the name of a ResNet."
            )
        if not levels or min(levels) < 1 or max(levels) > len(channels) or len(set(levels)) != len(levels):
            raise ValueError(f"levels must be different stages out of 1..{len(channels)}, got {tuple(levels)}.")
        self.stage_channels: list[int] = [int(width) for width in channels]
        self.levels: list[int] = sorted(int(level) for level in levels)
        self.duplicate_last_level = duplicate_last_level
        used = self.levels + self.levels[-1:] * duplicate_last_level
        self.used_levels: list[int] = used
        self.in_channels, self.embedding_dim = in_channels, embedding_dim
        self.feature_dim: int = self.stage_channels[-1]
        self.chunk_size, self.checkpointing = chunk_size, checkpointing
        self.projection = nn.Linear(sum(self.stage_channels[level - 1] for level in used), embedding_dim)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Maps of all stages, finest first, from ``N C H W``."""
        maps: list[Tensor] = self.backbone(x)
        return maps

    def pooled_levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Last stage pooled ``N F``, and the unit-length levels side by side ``N L``, from ``N C H W``."""
        pooled = [spatial_mean(stage) for stage in self.pyramid(x)]
        levels = [F.normalize(pooled[level - 1].float(), dim=1) for level in self.used_levels]
        return pooled[-1], torch.cat(levels, dim=1)

    def embed(self, x: Tensor) -> Tensor:
        """Slice embeddings ``N D`` of ``N C H W`` in one piece; compiles with ``torch.jit.script``."""
        embedding: Tensor = self.projection(self.pooled_levels(x)[1])
        return embedding

    @torch.jit.unused  # chunking and checkpointing are Python; scripted callers use embed
    def forward(self, x: Tensor) -> SliceFeatures:
        """Features and embeddings of images or slices.

        Args:
            x: ``N C H W``.

        Returns:
            features ``N F`` of the last stage and embedding ``N D``.

        Raises:
            ValueError: if ``x`` is no batch of images with ``in_channels`` channels, or, in
                autocast on a CPU, for sides of 16 px or less in training and for images that are narrow and high.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"the slice encoder needs N C H W with C = {self.in_channels}, got {tuple(x.shape)}: "
                "give volumes to JointClusterNet, or set in_channels."
            )
        if isinstance(self.backbone, ResNetStages):
            _refuse_one_pixel_maps(x)
        chunks = [x] if self.chunk_size is None or len(x) <= self.chunk_size else list(torch.split(x, self.chunk_size))
        parts = [self._chunk(chunk) for chunk in chunks]
        features, levels = (torch.cat(items) if len(items) > 1 else items[0] for items in zip(*parts, strict=True))
        return SliceFeatures(features, self.projection(levels))

    def _chunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.checkpointing and torch.is_grad_enabled():
            pair: tuple[Tensor, Tensor] = checkpoint_with_batch_norm(self.pooled_levels, self.backbone, x)
            return pair
        return self.pooled_levels(x)

    @torch.jit.unused
    def architecture(self) -> dict[str, Any]:
        """Arguments that build this encoder again; ``model`` is empty for a module of one's own."""
        return {
            "model": self.model_name,
            "in_channels": self.in_channels,
            "embedding_dim": self.embedding_dim,
            "levels": list(self.levels),
            "duplicate_last_level": self.duplicate_last_level,
        }


class SliceEmbedder(nn.Module):
    """Image in, slice embedding out: a bundle's exportable ``network_def``.

    Args:
        slice_encoder: the encoder; built with its defaults from ``model`` where it is None.
        model: name for the default encoder.
        in_channels: channels for the default encoder.
        embedding_dim: length of the default encoder's embedding.
    """

    def __init__(
        self,
        slice_encoder: SliceEncoder | None = None,
        model: str = "resnet50",
        in_channels: int = 1,
        embedding_dim: int = 640,
    ) -> None:
        super().__init__()
        if slice_encoder is None:
            slice_encoder = SliceEncoder(model, in_channels, embedding_dim)
        self.slice_encoder = slice_encoder

    def forward(self, image: Tensor) -> Tensor:
        """Embeddings ``N D`` of ``N C H W``."""
        return self.slice_encoder.embed(image)
