# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A U-Net on slices that know their neighbours: segmentation of images and volumes with the pretrained parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .described_parts import describe_part
from .recording import is_recording
from .resnet_stages import ResNetStages
from .slice_context import SliceContext, as_volume, cell_levels, cells_to_rows, empty_slices_at_the_end, slice_positions
from .slice_decoder import SliceDecoder
from .slice_encoder import SliceEncoder, as_channels_last

__all__ = ["ContextSliceUNet", "pad_in_plane"]

STEM_CHANNELS = 64


def pad_in_plane(images: Tensor, stride: int = 32) -> Tensor:
    """``N C H W`` with zeros at the end of both axes up to multiples of the deepest map's stride, and at least two.

    A deepest map of one pixel leaves batch norm nothing to average over in small batches, and PyTorch 2.13 computes
    convolutions over maps that are one pixel wide wrongly in autocast on a CPU.
    """
    height, width = images.shape[2], images.shape[3]
    more_rows = max(2 * stride - height, -height % stride)
    more_columns = max(2 * stride - width, -width % stride)
    return F.pad(images, [0, more_columns, 0, more_rows])


class ContextSliceUNet(nn.Module):
    """Encode every slice, let the deepest cells ask the same cells of other slices, decode every slice.

    The context: every cell of the deepest map gets an embedding as whole slices had in pretraining (all levels averaged
    over the cell, at unit length, through the same projection); the pretrained aggregator relates each cell's
    embeddings over the slices; a linear layer that starts at zero adds the tokens to the deepest map. So an untrained
    network is exactly the one without context. An image is a volume of one slice.

    Args:
        slice_encoder: with a named ResNet as its backbone; pretrained, or to be loaded later.
        slice_aggregator: a deformable or transformer one; None segments every slice by itself.
        out_channels: K, classes with the background.
        decoder_channels: at 1/16, 1/8, 1/4, 1/2 and 1/1 of the size.
        slice_spacing: mm between slices, where a call does not say; 1 counts slices.

    Raises:
        TypeError: if the encoder's backbone is a module of one's own, or the aggregator only pools.
        ValueError: for other decoder channels, fewer than one class, no positive spacing, or an aggregator of another
            dimension.
    """

    def __init__(
        self,
        slice_encoder: SliceEncoder,
        slice_aggregator: nn.Module | None = None,
        out_channels: int = 2,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        slice_spacing: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(slice_encoder.backbone, ResNetStages):
            raise TypeError(
                "the slice U-Net needs the stem's map of a named ResNet, got a backbone "
                f"{type(slice_encoder.backbone).__name__}: build SliceEncoder by a name such as 'resnet18'."
            )
        if out_channels < 1 or not slice_spacing > 0:
            raise ValueError(
                f"out_channels must be at least 1 and slice_spacing above 0, got {out_channels} and {slice_spacing}."
            )
        self.slice_spacing = float(slice_spacing)
        self.slice_encoder, self.slice_aggregator = slice_encoder, slice_aggregator
        self.slice_context: SliceContext | None = None
        channels = slice_encoder.stage_channels
        if slice_aggregator is None:
            # Without a gradient DistributedDataParallel would wait for it.
            slice_encoder.projection.requires_grad_(False)
        else:
            _check_aggregator(slice_aggregator, slice_encoder.embedding_dim)
            self.slice_context = SliceContext(slice_encoder.embedding_dim, channels[-1])
        skips = [*reversed(channels[:-1]), STEM_CHANNELS, slice_encoder.in_channels]
        self.decoder = SliceDecoder(channels[-1], skips, decoder_channels, out_channels)
        self._architecture = {
            "out_channels": out_channels,
            "decoder_channels": list(decoder_channels),
            "slice_spacing": self.slice_spacing,
        }

    def forward(self, image: Tensor, position_mm: Tensor | None = None) -> Tensor:
        """Scores before the softmax.

        Args:
            image: ``B C H W`` or ``B C H W S``, of any size; slices at the end that are all zero are padding.
            position_mm: ``B S``, where the slices lie; None takes them ``slice_spacing`` apart.

        Returns:
            ``B K H W`` or ``B K H W S``.

        Raises:
            ValueError: if ``image`` has another number of axes or channels.
        """
        volume = as_volume(image, self.slice_encoder.in_channels)
        batch, _, height, width, num_slices = volume.shape
        slices = pad_in_plane(volume.permute(0, 4, 1, 2, 3).flatten(0, 1))
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            slices = _fast_layout(slices)
        scores = self._decoded(slices, volume, position_mm)[:, :, :height, :width]
        if image.dim() == 4:
            return scores
        return scores.reshape(batch, num_slices, -1, height, width).permute(0, 2, 3, 4, 1)

    def _decoded(self, slices: Tensor, volume: Tensor, position_mm: Tensor | None) -> Tensor:
        stem = self.slice_encoder.backbone.stem(slices)  # type: ignore[operator]
        maps = self.slice_encoder.backbone.after_stem(stem)  # type: ignore[operator]
        deepest = maps[-1]
        if self.slice_aggregator is not None and self.slice_context is not None:
            batch = volume.shape[0]
            embeddings = self.slice_encoder.projection(cell_levels(maps, self.slice_encoder.used_levels))
            cells = cells_to_rows(embeddings, batch)
            repeats = deepest.shape[2] * deepest.shape[3]
            padded = empty_slices_at_the_end(volume).repeat_interleave(repeats, dim=0)
            position = slice_positions(volume, self.slice_spacing) if position_mm is None else position_mm
            tokens = self.slice_aggregator(cells, padded, position.repeat_interleave(repeats, dim=0))[0]
            deepest = self.slice_context(deepest, tokens, batch)
        scores: Tensor = self.decoder(deepest, [maps[2], maps[1], maps[0], stem, slices])
        return scores

    @torch.jit.unused
    def pretrained_modules(self) -> list[list[nn.Module]]:
        """Modules with pretrained weights in order of depth."""
        backbone: Any = self.slice_encoder.backbone
        levels: list[list[nn.Module]] = backbone.depth_levels()
        if self.slice_aggregator is not None:
            levels.append([self.slice_encoder.projection, self.slice_aggregator])
        return levels

    @torch.jit.unused
    def architecture(self) -> dict[str, Any]:
        """Arguments that build this network again; encoder and aggregator as descriptions."""
        parts = {"slice_encoder": self.slice_encoder.architecture(), "slice_aggregator": None}
        if self.slice_aggregator is not None:
            parts["slice_aggregator"] = describe_part(self.slice_aggregator)
        return parts | self._architecture


def _check_aggregator(aggregator: nn.Module, embedding_dim: int) -> None:
    if not hasattr(aggregator, "layers"):
        raise TypeError(
            f"{type(aggregator).__name__} passes nothing from slice to slice: give a DeformableAggregator or "
            "TransformerAggregator, or None for slices without context."
        )
    dim = getattr(aggregator, "dim", embedding_dim)
    if dim != embedding_dim:
        raise ValueError(
            f"the aggregator takes {dim} numbers per slice and the encoder gives {embedding_dim}: make them equal."
        )


def _fast_layout(slices: Tensor) -> Tensor:
    """Channels-last, for speed only; its strides cannot be exported."""
    return slices if is_recording() else as_channels_last(slices)
