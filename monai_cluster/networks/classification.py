# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Diagnoses of images and volumes with the pretrained encoder and aggregator."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cluster.outputs import SliceFeatures

from .described_parts import describe_part
from .resnet_stages import ResNetStages
from .safe_stages import bfloat16_is_unsafe
from .slice_context import as_volume, empty_slices_at_the_end, slice_positions
from .slice_encoder import SliceEncoder

__all__ = ["ClusterClassifier"]


class ClusterClassifier(nn.Module):
    """Class scores of images, or of volumes through the aggregator.

    Before the linear layer stands a batch norm without weights, as in the linear probes of MAE (He et al. 2021,
    arXiv:2111.06377, appendix A.1). A volume embedding has unit length, so each number is about ``1 / sqrt(D)``, and
    embeddings of like volumes are nearly parallel: a linear layer on them would hardly leave its start. Batch norm
    takes away what all have in common and brings the differences to size one.

    Args:
        slice_encoder: pretrained, or to be loaded later.
        slice_aggregator: any aggregator; None takes volumes by the mean over their slices.
        num_classes: scores per image.
        dropout: before the linear layer, while training.
        level: what describes an image or slice: ``"features"`` of the last stage, or its ``"embedding"``, which is what
            a pretrained aggregator takes. None means the embedding with an aggregator, else the features.
        slice_spacing: mm between slices, where a call does not say; 1 counts slices.

    Raises:
        ValueError: for an unknown level, fewer than one class, a dropout outside [0, 1), no positive spacing, or an
            aggregator of another dimension.
    """

    def __init__(
        self,
        slice_encoder: SliceEncoder,
        slice_aggregator: nn.Module | None = None,
        num_classes: int = 2,
        dropout: float = 0.0,
        level: Literal["features", "embedding"] | None = None,
        slice_spacing: float = 1.0,
    ) -> None:
        super().__init__()
        if not slice_spacing > 0:
            raise ValueError(f"slice_spacing must be above 0, got {slice_spacing}: give the mm between slices.")
        self.slice_spacing = float(slice_spacing)
        if level not in (None, "features", "embedding"):
            raise ValueError(f"level must be 'features', 'embedding' or None, got {level!r}.")
        if num_classes < 1 or not 0 <= dropout < 1:
            raise ValueError(f"num_classes must be at least 1 and dropout in [0, 1), got {num_classes} and {dropout}.")
        self.level: str = level or ("features" if slice_aggregator is None else "embedding")
        self.uses_embedding = self.level == "embedding"
        dim = slice_encoder.embedding_dim if self.uses_embedding else slice_encoder.feature_dim
        takes = getattr(slice_aggregator, "dim", None)
        if takes not in (None, dim):
            raise ValueError(
                f"the aggregator takes {takes} numbers per slice and level {self.level!r} gives {dim}: "
                "set level or the aggregator's dim."
            )
        self.slice_encoder, self.slice_aggregator = slice_encoder, slice_aggregator
        if not self.uses_embedding:
            # Without a gradient DistributedDataParallel would wait for it.
            slice_encoder.projection.requires_grad_(False)
        self.norm = nn.BatchNorm1d(dim, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, num_classes)
        self._architecture = {
            "num_classes": num_classes,
            "dropout": dropout,
            "level": self.level,
            "slice_spacing": self.slice_spacing,
        }

    def forward(self, image: Tensor, position_mm: Tensor | None = None) -> Tensor:
        """Scores before the softmax.

        Args:
            image: ``B C H W``, or ``B C H W S`` of any number of slices; those at the end that are all zero are
                padding.
            position_mm: ``B S``, where the slices lie; None takes them ``slice_spacing`` apart.

        Returns:
            ``B num_classes``.

        Raises:
            ValueError: if ``image`` has another number of axes or channels.
        """
        volume = as_volume(image, self.slice_encoder.in_channels)
        scores: Tensor = self.head(self.dropout(self._normalised(self.embed(volume, position_mm))))
        return scores

    def embed(self, volume: Tensor, position_mm: Tensor | None = None) -> Tensor:
        """What the head sees: ``B D`` (or ``B F``) of ``B C H W S``."""
        batch = volume.shape[0]
        slices = self._slices(volume.permute(0, 4, 1, 2, 3).flatten(0, 1))
        slices = slices.reshape(batch, volume.shape[4], -1)
        padded = empty_slices_at_the_end(volume)
        if self.slice_aggregator is not None:
            position = slice_positions(volume, self.slice_spacing) if position_mm is None else position_mm
            embedding: Tensor = self.slice_aggregator(slices, padded, position)[1]
            return embedding
        real = (~padded).to(slices.dtype).unsqueeze(-1)
        return (slices * real).sum(dim=1) / real.sum(dim=1)

    def _slices(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            features, levels = self.slice_encoder.pooled_levels(x)
            return self.slice_encoder.projection(levels) if self.uses_embedding else features
        found = _encode(self.slice_encoder, x)
        return found.embedding if self.uses_embedding else found.features

    def _normalised(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] == 1:  # one volume has no statistics: take the running ones
            return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)
        out: Tensor = self.norm(x)
        return out

    @torch.jit.unused
    def pretrained_modules(self) -> list[list[nn.Module]]:
        """Modules with pretrained weights in order of depth."""
        backbone = self.slice_encoder.backbone
        levels: list[list[nn.Module]] = [[backbone]]
        if isinstance(backbone, ResNetStages):
            levels = backbone.depth_levels()
        last: list[nn.Module] = [self.slice_encoder.projection] if self.uses_embedding else []
        if self.slice_aggregator is not None:
            last.append(self.slice_aggregator)
        return [*levels, last] if last else levels

    @torch.jit.unused
    def architecture(self) -> dict[str, Any]:
        """Arguments that build this network again; encoder and aggregator as descriptions."""
        parts = {"slice_encoder": self.slice_encoder.architecture(), "slice_aggregator": None}
        if self.slice_aggregator is not None:
            parts["slice_aggregator"] = describe_part(self.slice_aggregator)
        return parts | self._architecture


def _encode(slice_encoder: SliceEncoder, x: Tensor) -> SliceFeatures:
    """In float32 what the encoder refuses in autocast on a CPU: such images are small, so it costs little."""
    narrow = x.device.type == "cpu" and min(x.shape[2:]) <= 16
    if narrow or bfloat16_is_unsafe(x):
        with torch.autocast("cpu", enabled=False):
            found: SliceFeatures = slice_encoder(x.float())
            return found
    found = slice_encoder(x)
    return found
