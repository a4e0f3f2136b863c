# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""RetinaNet detectors on pretrained encoders, in 2D and 3D, without torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.losses import BoxGIoULoss
from torch import Tensor, nn

from monai_cluster.keys import ClusterKeys

from .aligned_windows import aligned_inferer, check_window
from .described_parts import describe_part
from .feature_pyramid import InflatedPyramidExtractor, SlicePyramidExtractor, StackedPyramidExtractor
from .nms import BlockNmsBoxSelector
from .retinanet import ClusterRetinaNet, Extractor, FocalLossPerPositive
from .slice_encoder import SliceEncoder

__all__ = ["ClusterDetector", "build_detector"]

NOT_VALUES = ("self", "__class__", "slice_encoder", "slice_aggregator")
DEFAULT_ANCHORS: dict[int, list[list[float]]] = {
    2: [[16, 16], [12, 24], [24, 12]],
    3: [[12, 12, 6], [8, 16, 6], [16, 8, 6]],
}


class ClusterDetector(RetinaNetDetector):
    """RetinaNet (Lin et al. 2017, arXiv:1708.02002) on a pretrained encoder, anchors matched by ATSS (Zhang et al.
    2020, arXiv:1912.02424).

    Args:
        spatial_dims: 2 for images, 3 for volumes.
        num_classes: without background; labels count from 0.
        kind: ``"slice"`` (2D) on the slice encoder; ``"inflated"`` (3D) on a 3D ResNet for inflated weights;
            ``"stacked"`` (3D) on the slice encoder's stages of every slice, with context between slices.
        slice_encoder: for ``"slice"`` and ``"stacked"``; None builds one of ``model``.
        slice_aggregator: for ``"stacked"``; None leaves the context out.
        model: ResNet of ``"inflated"`` and of the default slice encoder.
        in_channels: channels of the images, likewise.
        channels: of pyramid and heads; a multiple of 8, at least 16. The heads are eight convolutions at the finest
            level and cost most of the time.
        levels: the backbone's stages that become levels, ending with the last.
        depth_strides: of ``"stacked"``: slices per cell at each level.
        slice_spacing: of ``"stacked"``: mm between slices; 1 counts slices.
        anchor_shapes: sizes in voxels along the array's axes at the finest level; None takes
            ``((16, 16), (12, 24), (24, 12))``, in 3D with a third size of 6.
        anchor_scales: factor of the shapes at each level; None doubles from level to level.
        box_loss: ``"giou"`` of decoded boxes or smooth ``"l1"`` of offsets.
        focal_gamma: how little easy anchors count.
        focal_alpha: weight of positives; None weighs both alike.
        sampled_anchors: the classification loss sees so many anchors per image, hard negatives first; None sees all.
        positive_share: largest share of positives among sampled anchors.
        atss_candidates: nearest cells per level that may become positive.
        score_threshold: boxes below are dropped.
        nms_threshold: boxes that overlap a better one by more are dropped.
        candidates_per_level: best boxes of a level that go into suppression.
        max_detections: of one image.
        window: sliding window in evaluation mode, multiples of ``size_divisible``; None takes images in one piece.
        window_overlap: share that neighbouring windows have in common.
        window_batch: windows at once.

    Raises:
        ValueError: for arguments that contradict each other.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        num_classes: int = 1,
        kind: Literal["slice", "inflated", "stacked"] = "slice",
        slice_encoder: SliceEncoder | None = None,
        slice_aggregator: nn.Module | None = None,
        model: str = "resnet18",
        in_channels: int = 1,
        channels: int = 64,
        levels: Sequence[int] = (1, 2, 3, 4),
        depth_strides: Sequence[int] = (1, 2, 4, 8),
        slice_spacing: float = 1.0,
        anchor_shapes: Sequence[Sequence[float]] | None = None,
        anchor_scales: Sequence[float] | None = None,
        box_loss: Literal["giou", "l1"] = "giou",
        focal_gamma: float = 2.0,
        focal_alpha: float | None = 0.25,
        sampled_anchors: int | None = None,
        positive_share: float = 0.25,
        atss_candidates: int = 4,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.3,
        candidates_per_level: int = 1000,
        max_detections: int = 100,
        window: Sequence[int] | None = None,
        window_overlap: float = 0.5,
        window_batch: int = 1,
    ) -> None:
        arguments = {key: value for key, value in locals().items() if key not in NOT_VALUES}
        extractor = _extractor(
            spatial_dims, kind, slice_encoder, slice_aggregator, model, in_channels, channels, levels, depth_strides,
            slice_spacing,
        )  # fmt: skip
        shapes = DEFAULT_ANCHORS[spatial_dims] if anchor_shapes is None else [list(shape) for shape in anchor_shapes]
        scales = [2.0**place for place in range(len(levels))] if anchor_scales is None else list(anchor_scales)
        _check_anchors(shapes, scales, spatial_dims, len(levels))
        super().__init__(
            ClusterRetinaNet(extractor, num_classes, len(shapes)), AnchorGeneratorWithAnchorShape(scales, shapes)
        )
        self.arguments = arguments
        self.set_target_keys(ClusterKeys.BOX, ClusterKeys.BOX_LABEL)
        self.pred_score_key = ClusterKeys.SCORE
        self.set_cls_loss(FocalLossPerPositive(focal_gamma, focal_alpha))
        self._choose_box_loss(box_loss)
        self.set_atss_matcher(atss_candidates, center_in_gt=False)
        if sampled_anchors is not None:
            self.set_hard_negative_sampler(sampled_anchors, positive_share, min_neg=sampled_anchors // 4)
        self.box_selector = BlockNmsBoxSelector(score_threshold, candidates_per_level, nms_threshold, max_detections)
        self.window = None if window is None else check_window(window, self.size_divisible, window_overlap)
        self.window_overlap, self.window_batch = window_overlap, window_batch
        if self.window is not None:
            self.set_sliding_window_inferer(self.window, window_batch, window_overlap)

    @property
    def extractor(self) -> Extractor:
        """The feature pyramid; no attribute, or the state dict would hold its weights twice."""
        network: Any = self.network
        extractor: Extractor = network.feature_extractor
        return extractor

    @property
    def slice_encoder(self) -> SliceEncoder | None:
        """The slice encoder; None on inflated weights."""
        encoder: SliceEncoder | None = getattr(self.extractor, "slice_encoder", None)
        return encoder

    @property
    def slice_aggregator(self) -> nn.Module | None:
        """The aggregator of slice context, where there is one."""
        aggregator: nn.Module | None = getattr(self.extractor, "slice_aggregator", None)
        return aggregator

    def forward(
        self,
        input_images: list[Tensor] | Tensor,
        targets: list[dict[str, Tensor]] | None = None,
        use_inferer: bool | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            input_images: one ``C H W`` or ``C H W S`` per image, of any size, in 0..1.
            targets: for training, per image ``box`` ``N 2d`` (half-open edges in indices of the array) and
                ``box_label`` ``N``; N may be 0.
            use_inferer: slide the window; None does so where there is one.

        Returns:
            Scalars ``classification`` and ``box_regression``; or per image ``box`` ``N 2d``, ``box_label`` ``N`` and
            ``score`` ``N`` by falling score.

        Raises:
            ValueError: in training without targets, for labels outside 0..K − 1, or for a window where there is none.
        """
        images = [_plain(image) for image in input_images]
        device = images[0].device
        if self.training and targets is not None:
            targets = [self._target(target, device) for target in targets]
        if self.anchors is not None and self.anchors[0].device != device:
            self.anchors = None  # kept from the last batch, and not moved with the module
        sliding = not self.training and (self.window is not None if use_inferer is None else use_inferer)
        if sliding and self.window is not None:
            longest = [max(image.shape[axis + 1] for image in images) for axis in range(self.spatial_dims)]
            self.inferer = aligned_inferer(
                longest, self.window, self.size_divisible, self.window_overlap, self.window_batch
            )
        result: dict[str, Tensor] | list[dict[str, Tensor]] = super().forward(images, targets, use_inferer=sliding)
        return result

    def compute_anchor_matched_idxs(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]], num_anchor_locs_per_level: Sequence[int]
    ) -> list[Tensor]:
        """The box that each anchor must find, ``A`` per image; -1 for background.

        Replaces MONAI's, which asks torchvision for a class before it looks at the matcher. A box that ATSS leaves
        without an anchor gets the free one that overlaps it most: where half of its candidates overlap it alike and the
        other half less, none of them lies a standard deviation above their mean, and it would never be learned.
        """
        matched = []
        for of_image, target in zip(anchors, targets, strict=True):
            boxes = target[self.target_box_key]
            if len(boxes) == 0:
                matched.append(torch.full((len(of_image),), -1, dtype=torch.int64, device=of_image.device))
                continue
            overlap, found = self.proposal_matcher(boxes, of_image, num_anchor_locs_per_level, self.num_anchors_per_loc)
            anchors_of_box = torch.bincount(found[found >= 0], minlength=len(boxes))
            for left_out in torch.nonzero(anchors_of_box == 0)[:, 0].tolist():
                free = overlap[left_out].masked_fill(found >= 0, 0)
                if float(free.max()) > 0:
                    found[free.argmax()] = left_out
            matched.append(found)
        return matched

    def compute_box_loss(
        self,
        box_regression: Tensor,
        targets: list[dict[str, Tensor]],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> Tensor:
        """MONAI's, with gradients of zero for a batch without boxes, so that ranks with and without boxes agree."""
        loss: Tensor = super().compute_box_loss(box_regression, targets, anchors, matched_idxs)
        return loss if loss.requires_grad else loss.to(box_regression.device) + 0 * box_regression.sum()

    def pretrained_modules(self) -> list[list[nn.Module]]:
        """Modules with pretrained weights in order of depth."""
        return self.extractor.pretrained_modules()

    def architecture(self) -> dict[str, Any]:
        """Constructor arguments that build this detector again; encoder and aggregator as descriptions."""
        arguments = {key: _jsonable(value) for key, value in self.arguments.items()}
        encoder, aggregator = self.slice_encoder, self.slice_aggregator
        arguments["slice_encoder"] = None if encoder is None else encoder.architecture()
        arguments["slice_aggregator"] = None if aggregator is None else describe_part(aggregator)
        return arguments

    def _choose_box_loss(self, name: str) -> None:
        if name == "giou":
            self.set_box_regression_loss(BoxGIoULoss(), encode_gt=False, decode_pred=True)
        elif name == "l1":
            self.set_box_regression_loss(nn.SmoothL1Loss(beta=1 / 9), encode_gt=True, decode_pred=False)
        else:
            raise ValueError(f"box_loss must be 'giou' or 'l1', got {name!r}.")

    def _target(self, target: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        boxes = _plain(target[self.target_box_key]).to(device, torch.float32).reshape(-1, 2 * self.spatial_dims)
        labels = _plain(target[self.target_label_key]).to(device, torch.int64).reshape(-1)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(
                f"box labels must lie in 0..{self.num_classes - 1}, got {int(labels.min())}..{int(labels.max())}: "
                "count classes from 0, without background."
            )
        return {self.target_box_key: boxes, self.target_label_key: labels}


build_detector = ClusterDetector
"""The detector by its configuration."""


def _extractor(
    spatial_dims: int,
    kind: str,
    slice_encoder: SliceEncoder | None,
    slice_aggregator: nn.Module | None,
    model: str,
    in_channels: int,
    channels: int,
    levels: Sequence[int],
    depth_strides: Sequence[int],
    slice_spacing: float,
) -> Extractor:
    """The feature pyramid of a kind, or what contradicts it."""
    kinds = {"slice": 2, "inflated": 3, "stacked": 3}
    if kinds.get(kind) != spatial_dims:
        raise ValueError(
            f"kind must be 'slice' for images, 'inflated' or 'stacked' for volumes, got {kind!r} with spatial_dims "
            f"{spatial_dims}."
        )
    if slice_aggregator is not None and kind != "stacked":
        raise ValueError(f"slice_aggregator belongs to kind 'stacked', got {kind!r}: leave it out.")
    if kind == "inflated":
        if slice_encoder is not None:
            raise ValueError("kind 'inflated' builds its own 3D ResNet: give model, and load the weights into it.")
        return InflatedPyramidExtractor(model, in_channels, channels, levels)
    encoder = SliceEncoder(model, in_channels) if slice_encoder is None else slice_encoder
    if kind == "slice":
        return SlicePyramidExtractor(encoder, channels, levels)
    return StackedPyramidExtractor(encoder, slice_aggregator, channels, levels, depth_strides, slice_spacing)


def _check_anchors(shapes: list[list[float]], scales: list[float], spatial_dims: int, num_levels: int) -> None:
    if not shapes or any(len(shape) != spatial_dims or min(shape) <= 0 for shape in shapes):
        raise ValueError(f"anchor_shapes must be {spatial_dims} positive sizes each, got {shapes}.")
    if len(scales) != num_levels or min(scales) <= 0:
        raise ValueError(f"anchor_scales must be one positive number for each of {num_levels} levels, got {scales}.")


def _plain(tensor: Tensor) -> Tensor:
    """Without MONAI's meta data, which would follow through every operation."""
    plain: Tensor = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
    return plain


def _jsonable(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_jsonable(item) for item in value]
    return value
