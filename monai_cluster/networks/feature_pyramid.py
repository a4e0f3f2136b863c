# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Feature pyramids for detection: of an image, of a volume by inflated weights, of a volume by stacked slices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from torch import Tensor, nn

from .resnet_stages import ResNetStages
from .safe_stages import safe_stages
from .slice_context import SliceContext, cells_to_rows, local_slice_embeddings, slice_positions, trailing_padding
from .slice_encoder import SliceEncoder, as_channels_last

__all__ = ["InflatedPyramidExtractor", "SlicePyramidExtractor", "StackedPyramidExtractor", "anchor_strides"]

DEEPEST_STRIDE = 32  # of a ResNet's last stage; sizes that it divides keep every level's cells aligned with its anchors


class _Pyramid(nn.Module):
    """Stages of a backbone through MONAI's feature pyramid network (Lin et al. 2017, arXiv:1612.03144)."""

    def __init__(
        self, spatial_dims: int, stage_channels: Sequence[int], out_channels: int, levels: Sequence[int]
    ) -> None:
        super().__init__()
        last = len(stage_channels)
        if sorted(set(levels)) != list(levels) or not levels or levels[0] < 1 or levels[-1] != last:
            raise ValueError(
                f"levels must be rising stages that end with the last one, {last}, got {list(levels)}: later stages "
                "would be computed for nothing."
            )
        if out_channels < 16 or out_channels % 8:
            raise ValueError(
                "out_channels must be a multiple of 8 and at least 16, got "
                f"{out_channels}: the heads normalise 8 groups, and one number alone cannot be normalised."
            )
        self.spatial_dims, self.out_channels = spatial_dims, out_channels
        self.levels = list(levels)
        self.size_divisible: tuple[int, ...] = (DEEPEST_STRIDE,) * spatial_dims
        self.pyramid = FeaturePyramidNetwork(
            spatial_dims, [int(stage_channels[level - 1]) for level in levels], out_channels
        )

    def select(self, maps: list[Tensor]) -> list[Tensor]:
        """The levels' maps out of all stages'."""
        return [maps[level - 1] for level in self.levels]

    def fuse(self, maps: list[Tensor]) -> list[Tensor]:
        """One map of ``out_channels`` per level, finest first, from the levels' maps."""
        fused = self.pyramid({str(place): level for place, level in enumerate(maps)})
        return list(fused.values())


def _levels_of(backbone: nn.Module) -> list[list[nn.Module]]:
    """A backbone's modules in order of depth; one that is no ResNet of ours is one level."""
    return backbone.depth_levels() if isinstance(backbone, ResNetStages) else [[backbone]]


class SlicePyramidExtractor(_Pyramid):
    """Pyramid of images by the slice encoder's stages.

    The encoder's projection takes no part and is frozen.

    Args:
        slice_encoder: with pretrained weights, or to be loaded later.
        out_channels: channels of every level; a multiple of 8, at least 16.
        levels: stages that become levels, counted from 1 and ending with the last; level ``n`` has stride
            ``2 ** (n + 1)``.

    Raises:
        ValueError: for other levels or channels.
    """

    def __init__(
        self, slice_encoder: SliceEncoder, out_channels: int = 64, levels: Sequence[int] = (1, 2, 3, 4)
    ) -> None:
        super().__init__(2, slice_encoder.stage_channels, out_channels, levels)
        self.slice_encoder = slice_encoder
        slice_encoder.projection.requires_grad_(False)  # without a gradient DistributedDataParallel would wait for it

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps ``B out_channels H/s W/s``, finest first, from ``B C H W``."""
        return self.fuse(self.select(safe_stages(self.slice_encoder.backbone, as_channels_last(image))))

    def pretrained_modules(self) -> list[list[nn.Module]]:
        """Modules with pretrained weights in order of depth."""
        return _levels_of(self.slice_encoder.backbone)


class InflatedPyramidExtractor(_Pyramid):
    """Pyramid of volumes by a 3D ResNet, whose kernels may be inflated from a 2D encoder.

    Args:
        model: name of the ResNet.
        in_channels: channels of the volume.
        out_channels: channels of every level; a multiple of 8, at least 16.
        levels: stages that become levels, counted from 1 and ending with the last; level ``n`` has stride
            ``2 ** (n + 1)`` along all three axes.

    Raises:
        ValueError: for an unknown name, other levels or channels.
    """

    def __init__(
        self,
        model: str = "resnet18",
        in_channels: int = 1,
        out_channels: int = 32,
        levels: Sequence[int] = (1, 2, 3, 4),
    ) -> None:
        backbone = ResNetStages(model, in_channels, spatial_dims=3)
        super().__init__(3, backbone.stage_channels, out_channels, levels)
        self.encoder = backbone

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps ``B out_channels H/s W/s S/s``, finest first, from ``B C H W S``."""
        return self.fuse(self.select(safe_stages(self.encoder, image)))

    def pretrained_modules(self) -> list[list[nn.Module]]:
        """Modules with pretrained weights in order of depth."""
        return _levels_of(self.encoder)


class StackedPyramidExtractor(_Pyramid):
    """Pyramid of volumes from 2D stages of every slice, stacked, with context between slices at the deepest stage.

    The slice encoder works on every slice at full resolution between slices, so thick and few slices lose nothing.
    Before the levels are fused in 3D, each is averaged over ``depth_strides`` slices: boxes are found on few cells.

    Args:
        slice_encoder: of the slices.
        slice_aggregator: carries context between slices; None leaves it out.
        out_channels: channels of every level; a multiple of 8, at least 16.
        levels: stages that become levels, counted from 1 and ending with the last.
        depth_strides: slices per cell, for each level; each a multiple of the one before.
        slice_spacing: mm between slices; 1 counts slices.

    Raises:
        ValueError: for other levels, channels or strides, or no positive spacing.
    """

    def __init__(
        self,
        slice_encoder: SliceEncoder,
        slice_aggregator: nn.Module | None = None,
        out_channels: int = 32,
        levels: Sequence[int] = (1, 2, 3, 4),
        depth_strides: Sequence[int] = (1, 2, 4, 8),
        slice_spacing: float = 1.0,
    ) -> None:
        super().__init__(3, slice_encoder.stage_channels, out_channels, levels)
        steps = [1, *depth_strides]
        if len(depth_strides) != len(levels) or min(steps) < 1 or any(b % a for a, b in pairwise(steps)):
            raise ValueError(
                f"depth_strides must be one number per level, each a multiple of the one before, got "
                f"{list(depth_strides)} for {len(levels)} levels."
            )
        if not slice_spacing > 0:
            raise ValueError(f"slice_spacing must be above 0, got {slice_spacing}: give the mm between slices.")
        self.slice_spacing = float(slice_spacing)
        self.depth_strides = [int(stride) for stride in depth_strides]
        self.size_divisible = (DEEPEST_STRIDE, DEEPEST_STRIDE, self.depth_strides[-1])
        self.slice_encoder, self.slice_aggregator = slice_encoder, slice_aggregator
        self.slice_context: SliceContext | None = None
        if slice_aggregator is None:
            slice_encoder.projection.requires_grad_(False)
        else:
            self.slice_context = SliceContext(slice_encoder.embedding_dim, slice_encoder.stage_channels[-1])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps ``B out_channels H/s W/s S/t``, finest first, from ``B C H W S``."""
        batch = len(image)
        slices = as_channels_last(image.permute(0, 4, 1, 2, 3).flatten(0, 1))
        maps = safe_stages(self.slice_encoder.backbone, slices)
        if self.slice_context is not None and self.slice_aggregator is not None:
            cells = cells_to_rows(local_slice_embeddings(self.slice_encoder, maps), batch)
            padded = trailing_padding(image)
            repeats = len(cells) // batch
            rows = None if padded is None else padded.repeat_interleave(repeats, dim=0)
            position = slice_positions(image, self.slice_spacing).repeat_interleave(repeats, dim=0)
            tokens, _ = self.slice_aggregator(cells, rows, position)
            maps = [*maps[:-1], self.slice_context(maps[-1], tokens, batch)]
        levels = zip(self.select(maps), self.depth_strides, strict=True)
        return self.fuse([_stack(level, batch, stride) for level, stride in levels])

    def pretrained_modules(self) -> list[list[nn.Module]]:
        """Modules with pretrained weights in order of depth."""
        levels = _levels_of(self.slice_encoder.backbone)
        if self.slice_aggregator is None:
            return levels
        return [*levels, [self.slice_encoder.projection, self.slice_aggregator]]


def _stack(maps: Tensor, batch: int, stride: int) -> Tensor:
    """``B C h w S/stride`` from ``B·S C h w``: the mean over every ``stride`` slices."""
    groups = maps.reshape(batch, -1, stride, *maps.shape[1:])
    return groups.mean(dim=2).permute(0, 2, 3, 4, 1)


def anchor_strides(
    spatial_dims: int,
    kind: str,
    levels: Sequence[int] = (1, 2, 3, 4),
    depth_strides: Sequence[int] = (1, 2, 4, 8),
) -> list[list[int]]:
    """Voxels between neighbouring anchors, one row per level and one number per axis, of a ``ClusterDetector``.

    Args:
        spatial_dims: 2 or 3.
        kind: ``"slice"``, ``"inflated"`` or ``"stacked"``.
        levels: stages of the backbone, counted from 1; stage n has one cell per ``2 ** (n + 1)`` voxels.
        depth_strides: of ``"stacked"``, slices per cell.
    """
    in_plane = [2 ** (level + 1) for level in levels]
    if spatial_dims == 2:
        return [[step, step] for step in in_plane]
    depth = list(depth_strides) if kind == "stacked" else in_plane
    return [[step, step, deep] for step, deep in zip(in_plane, depth, strict=True)]
