# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Pyramids: strides, slice context, what is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_cluster.networks import (
    DeformableAggregator,
    InflatedPyramidExtractor,
    ResNetStages,
    SliceEncoder,
    SlicePyramidExtractor,
    StackedPyramidExtractor,
)
from monai_cluster.networks.feature_pyramid import _stack
from monai_cluster.networks.safe_stages import bfloat16_is_unsafe
from monai_cluster.networks.slice_context import cells_to_rows, local_slice_embeddings, trailing_padding

from .tiny import tiny_encoder


def stacked(context: bool = True, **options: Any) -> StackedPyramidExtractor:
    torch.manual_seed(0)
    encoder = tiny_encoder()
    aggregator = DeformableAggregator(8, 1, 2, 4, 12, dropout=0.0) if context else None
    torch.manual_seed(1)
    return StackedPyramidExtractor(encoder, aggregator, 16, (1, 2), **{"depth_strides": (1, 2), **options})


def volume(slices: int = 6, size: int = 32, seed: int = 2) -> Tensor:
    return torch.rand(2, 1, size, size, slices, generator=torch.Generator().manual_seed(seed))


def parameters_of(levels: list[list[nn.Module]]) -> list[int]:
    return [id(parameter) for modules in levels for module in modules for parameter in module.parameters()]


def test_stacked_levels_average_slices_in_groups_of_their_stride() -> None:
    maps = stacked(depth_strides=(1, 3))(volume())
    assert [tuple(level.shape[2:]) for level in maps] == [(16, 16, 6), (8, 8, 2)]
    flat = torch.rand(2 * 6, 3, 4, 5)
    pooled = _stack(flat, 2, 3)
    for batch in range(2):
        for place in range(2):
            group = flat[6 * batch + 3 * place : 6 * batch + 3 * place + 3]
            torch.testing.assert_close(pooled[batch, ..., place], group.mean(0))


def test_untrained_context_leaves_the_pyramid_as_it_is() -> None:
    with_context, without = stacked().eval(), stacked(context=False).eval()
    without.pyramid.load_state_dict(with_context.pyramid.state_dict())
    for mine, plain in zip(with_context(volume()), without(volume()), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=0)


def test_trained_context_carries_from_slice_to_slice() -> None:
    extractor = stacked(depth_strides=(1, 1)).eval()
    nn.init.normal_(extractor.slice_context.output.weight)
    nn.init.constant_(extractor.pyramid.layer_blocks[1].weight, 0.0)
    extractor.pyramid.layer_blocks[1].weight.data[:, :, 1, 1, 1] = 1.0  # no look at neighbours by the pyramid itself
    changed = volume()
    changed[..., 5] += 1.0
    difference = (extractor(changed)[1] - extractor(volume())[1]).abs().amax(dim=(0, 1, 2, 3))
    assert (difference[:5] > 1e-6).all()
    extractor.slice_context.output.weight.data.zero_()
    difference = (extractor(changed)[1] - extractor(volume())[1]).abs().amax(dim=(0, 1, 2, 3))
    assert difference[:5].max() == 0


def test_empty_slices_at_the_end_do_not_change_the_context_of_the_others() -> None:
    extractor = stacked(depth_strides=(1, 1)).eval()
    nn.init.normal_(extractor.slice_context.output.weight)
    encoder, aggregator = extractor.slice_encoder, extractor.slice_aggregator

    def deepest(image: Tensor) -> Tensor:
        maps = encoder.pyramid(image.permute(0, 4, 1, 2, 3).flatten(0, 1))
        cells = cells_to_rows(local_slice_embeddings(encoder, maps), len(image))
        padded = trailing_padding(image)
        rows = None if padded is None else padded.repeat_interleave(8 * 8, dim=0)
        return extractor.slice_context(maps[-1], aggregator(cells, rows)[0], len(image)).unflatten(0, (len(image), -1))

    filled = torch.cat([volume(), torch.zeros(2, 1, 32, 32, 2)], dim=-1)
    torch.testing.assert_close(deepest(filled)[:, :6], deepest(volume()))


def test_padding_is_what_is_empty_to_the_end_and_never_the_first_slice() -> None:
    image = torch.zeros(3, 1, 2, 2, 5)
    image[0, ..., 0] = 1
    image[0, ..., 2] = 1
    image[1] = 1
    assert trailing_padding(image).tolist() == [
        [False, False, False, True, True], [False] * 5, [False, True, True, True, True]
    ]  # fmt: skip
    assert trailing_padding(image[1:2]) is None


def test_the_embedding_of_a_single_cell_is_that_of_the_slice() -> None:
    encoder = tiny_encoder().eval()
    image = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    local = local_slice_embeddings(encoder, encoder.pyramid(image))
    assert local.shape == (3, 1, 1, 8)
    torch.testing.assert_close(local[:, 0, 0], encoder(image).embedding)


def test_cells_are_embedded_by_themselves() -> None:
    encoder = tiny_encoder().eval()
    maps = encoder.pyramid(torch.rand(2, 1, 16, 8, generator=torch.Generator().manual_seed(0)))
    whole = local_slice_embeddings(encoder, maps)
    assert whole.shape == (2, 4, 2, 8)
    corner = local_slice_embeddings(encoder, [maps[0][..., 2:4, 0:2], maps[1][..., 1:2, 0:1]])
    torch.testing.assert_close(whole[:, 1, 0], corner[:, 0, 0])


@pytest.mark.parametrize(
    "build",
    [
        lambda: SlicePyramidExtractor(SliceEncoder("resnet18", 1, 16), 16),
        lambda: InflatedPyramidExtractor("resnet18", 1, 16),
        lambda: StackedPyramidExtractor(SliceEncoder("resnet18", 1, 8), DeformableAggregator(8, 1, 2, 4, 12), 16),
        lambda: StackedPyramidExtractor(SliceEncoder("resnet18", 1, 8), None, 16),
    ],
)
def test_every_parameter_that_is_trained_gets_a_gradient_and_every_pretrained_one_is_listed_once(build: Any) -> None:
    torch.manual_seed(0)
    extractor = build()
    image = torch.rand(2, 1, *((32, 32, 16)[: extractor.spatial_dims]))
    # Maps of one pixel have no variance over the batch: keep batch norm's own statistics.
    sum(level.square().sum() for level in extractor.eval()(image)).backward()
    without = [name for name, value in extractor.named_parameters() if value.requires_grad and value.grad is None]
    assert without == []
    listed = parameters_of(extractor.pretrained_modules())
    assert len(set(listed)) == len(listed)
    new = ("pyramid.", "slice_context.")
    expected = {
        id(value) for name, value in extractor.named_parameters() if value.requires_grad and not name.startswith(new)
    }
    assert set(listed) == expected


def test_pretrained_modules_come_in_order_of_depth() -> None:
    extractor = StackedPyramidExtractor(SliceEncoder("resnet18", 1, 8), DeformableAggregator(8, 1, 2, 4, 12), 16)
    backbone: Any = extractor.slice_encoder.backbone
    levels = extractor.pretrained_modules()
    assert levels[0] == [backbone.conv1, backbone.bn1]
    assert levels[1:5] == [[backbone.layer1], [backbone.layer2], [backbone.layer3], [backbone.layer4]]
    assert levels[5] == [extractor.slice_encoder.projection, extractor.slice_aggregator]


def test_inflated_pyramid_runs_on_a_3d_resnet() -> None:
    extractor = InflatedPyramidExtractor("resnet18", 2, 16).eval()
    assert isinstance(extractor.encoder, ResNetStages)
    maps = extractor(torch.rand(1, 2, 32, 64, 32))
    assert [tuple(level.shape[2:]) for level in maps] == [(8, 16, 8), (4, 8, 4), (2, 4, 2), (1, 2, 1)]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SlicePyramidExtractor(tiny_encoder(), 16, (1,)), "end with the last one, 2"),
        (lambda: SlicePyramidExtractor(tiny_encoder(), 16, (2, 1, 2)), "rising stages"),
        (lambda: SlicePyramidExtractor(tiny_encoder(), 20, (1, 2)), "multiple of 8"),
        (lambda: SlicePyramidExtractor(tiny_encoder(), 8, (1, 2)), "at least 16"),
        (lambda: stacked(depth_strides=(2, 3)), "multiple of the one before"),
        (lambda: stacked(depth_strides=(0, 2)), "one number per level"),
        (lambda: stacked(depth_strides=(1, 2, 4)), "for 2 levels"),
    ],
)
def test_what_contradicts_itself_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: SlicePyramidExtractor(SliceEncoder("resnet18", 1, 8), 16), (128, 32)),
        (lambda: StackedPyramidExtractor(SliceEncoder("resnet18", 1, 8), None, 16), (128, 32, 8)),
        (lambda: InflatedPyramidExtractor("resnet18", 1, 16), (32, 64, 32)),
    ],
)
def test_autocast_on_a_cpu_agrees_with_float32_where_maps_are_one_wide(build: Any, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    extractor = build().eval()
    image = torch.rand(1, 1, *size)
    with torch.no_grad():
        plain = extractor(image)
        with torch.autocast("cpu", torch.bfloat16):
            cast = extractor(image)
    for mine, expected in zip(cast, plain, strict=True):
        assert float((mine.float() - expected).norm() / expected.norm()) < 0.02


def test_float32_is_kept_to_where_bfloat16_is_wrong() -> None:
    def unsafe(*size: int) -> bool:
        return bfloat16_is_unsafe(torch.empty(1, 1, *size, device="cpu"))

    assert not unsafe(64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert [unsafe(64, 32), unsafe(32, 32), unsafe(32, 64), unsafe(64, 64)] == [True, False, False, False]
        assert [unsafe(64, 64, 32), unsafe(64, 32, 32), unsafe(64, 32, 64)] == [True, False, False]
        assert unsafe(16, 16)
        with torch.no_grad():
            assert not unsafe(16, 16)


@torch.no_grad()
def test_distances_of_stacked_slices_are_as_told() -> None:
    near, far = (stacked(depth_strides=(1, 1), slice_spacing=mm).eval() for mm in (1.0, 50.0))
    for extractor in (near, far):
        assert extractor.slice_context is not None
        nn.init.normal_(extractor.slice_encoder.projection.weight, generator=torch.Generator().manual_seed(1))
        nn.init.normal_(extractor.slice_context.output.weight, generator=torch.Generator().manual_seed(2))
    far.load_state_dict(near.state_dict())
    asked = []
    assert far.slice_aggregator is not None
    far.slice_aggregator.register_forward_pre_hook(lambda module, given: asked.append(given[2]))
    assert not torch.allclose(far(volume())[-1], near(volume())[-1])
    assert torch.equal(asked[0][0], 50 * torch.arange(6.0))
    with pytest.raises(ValueError, match="slice_spacing must be above 0, got 0"):
        stacked(slice_spacing=0)
