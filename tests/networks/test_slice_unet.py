# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The slice U-Net: any size, context that starts at nothing, slices that know their neighbours and no padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from monai_cluster.networks import (
    ContextSliceUNet,
    DeformableAggregator,
    MeanPool,
    SliceEncoder,
    TransformerAggregator,
)
from monai_cluster.networks.slice_context import SliceContext, cell_levels, cells_to_rows
from monai_cluster.networks.slice_decoder import SliceDecoder
from monai_cluster.networks.slice_unet import pad_in_plane

from .tiny import tiny_encoder

CHANNELS = (16, 16, 8, 8, 8)


def unet(context: bool = True, seed: int = 0, spread: float = 0.0, **options: object) -> ContextSliceUNet:
    torch.manual_seed(seed)
    aggregator = DeformableAggregator(8, 2, 2, 4, 12, dropout=0.0) if context else None
    network = ContextSliceUNet(SliceEncoder("resnet18", 1, 8), aggregator, 3, CHANNELS, **options)
    if network.slice_context is not None:
        nn.init.normal_(network.slice_encoder.projection.weight)  # or all slices are one to the aggregator
        nn.init.normal_(network.slice_context.output.weight, std=spread)
    return measured(network)


def measured(network: ContextSliceUNet) -> ContextSliceUNet:
    """Statistics as after training: with those of a new network signals fade from level to level."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the whole of the first batch
    with torch.no_grad():
        network.train()(volume(2, 1, 64, 64, 3, seed=1))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def volume(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.1


@torch.no_grad()
def test_new_context_changes_nothing() -> None:
    network, plain = unet(), unet(context=False)
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "aggreg" not in name
                           and "context" not in name})  # fmt: skip
    x = volume(2, 1, 48, 40, 4)
    assert torch.equal(network(x), plain(x))


@torch.no_grad()
def test_without_context_a_volume_is_its_slices() -> None:
    network, x = unet(context=False), volume(2, 1, 40, 70, 3)
    expected = torch.stack([network(x[..., place]) for place in range(3)], dim=-1)
    torch.testing.assert_close(network(x), expected)


@torch.no_grad()
def test_only_with_context_do_slices_answer_for_changes_in_others() -> None:
    x = volume(1, 1, 64, 64, 6)
    changed = x.clone()
    changed[..., 4] = torch.linspace(-9, 9, 64)
    for network, knows in ((unet(spread=3.0), True), (unet(context=False), False)):
        moved = (network(changed) - network(x)).abs().amax((0, 1, 2, 3))
        assert bool((moved[:4] > 1e-4).all()) == knows, moved
        assert bool((moved[:4] > 0).any()) == knows
        assert moved[4] > 1e-2


@torch.no_grad()
def test_an_image_is_a_volume_of_one_slice() -> None:
    network, x = unet(spread=3.0), volume(2, 1, 50, 64)
    torch.testing.assert_close(network(x), network(x[..., None])[..., 0])


@torch.no_grad()
def test_empty_slices_at_the_end_change_nothing_before_them() -> None:
    network, x = unet(spread=3.0), volume(1, 1, 40, 40, 5)
    torch.testing.assert_close(network(F.pad(x, (0, 3)))[..., :5], network(x))
    front = network(F.pad(x, (3, 0)))[..., 3:]
    assert (front - network(x)).abs().max() > 1e-4  # zeros in front are slices like others


@torch.no_grad()
def test_volumes_of_a_batch_do_not_meet() -> None:
    network, x = unet(spread=3.0), volume(3, 1, 64, 40, 4)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (33, 96), (7, 100), (130, 20)])
def test_padding_inside_is_padding_outside(size: tuple[int, int]) -> None:
    network, x = unet(spread=3.0), volume(1, 1, *size, 2)
    rows, columns = (max(64, -(-side // 32) * 32) for side in size)
    padded = F.pad(x, (0, 0, 0, columns - size[1], 0, rows - size[0]))
    torch.testing.assert_close(network(x), network(padded)[:, :, : size[0], : size[1]])


def test_sizes_grow_to_multiples_of_32_and_two_cells() -> None:
    def grown(*size: int) -> tuple[int, ...]:
        return tuple(pad_in_plane(torch.ones(1, 1, *size)).shape[2:])

    assert [grown(1, 64), grown(65, 32), grown(96, 97)] == [(64, 64), (96, 64), (96, 128)]
    assert pad_in_plane(torch.ones(1, 1, 3, 5)).sum() == 15


@torch.no_grad()
def test_cells_of_an_image_of_one_cell_have_the_encoders_embedding() -> None:
    torch.manual_seed(0)
    encoder, x = SliceEncoder("resnet18", 1, 8).eval(), volume(4, 1, 32, 32)
    cells = encoder.projection(cell_levels(encoder.pyramid(x), encoder.used_levels))
    torch.testing.assert_close(cells[:, 0, 0], encoder(x).embedding)


def test_rows_hold_one_cell_of_one_volume_in_the_order_of_slices() -> None:
    where = torch.cartesian_prod(*(torch.arange(n) for n in (2, 5, 3, 4))).view(10, 3, 4, 4)  # b s h w
    rows = cells_to_rows(where, 2)
    assert rows.shape == (24, 5, 4)
    assert torch.equal(rows[:, :, 1], torch.arange(5).expand(24, 5))
    cells = torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4))
    assert torch.equal(rows[:, :, [0, 2, 3]], cells[:, None].expand(-1, 5, -1))


@torch.no_grad()
def test_every_cell_gets_its_own_context_back() -> None:
    context, cells = SliceContext(6, 6), torch.randn(2 * 5, 3, 4, 6)
    context.output.weight.copy_(torch.eye(6))
    deepest = torch.randn(2 * 5, 6, 3, 4)
    torch.testing.assert_close(context(deepest, cells_to_rows(cells, 2), 2), deepest + cells.permute(0, 3, 1, 2))


@torch.no_grad()
def test_positions_in_millimetres_reach_the_aggregator() -> None:
    network, x = unet(spread=3.0), volume(1, 1, 64, 64, 6)
    slices, wide = torch.arange(6.0)[None], torch.arange(6.0)[None] * 50
    torch.testing.assert_close(network(x, slices), network(x))
    assert (network(x, wide) - network(x)).abs().max() > 1e-5


def test_every_parameter_learns_in_one_step() -> None:
    for context in (True, False):
        network = unet(context, spread=0.1).train()
        network(volume(2, 1, 64, 64, 5)).square().mean().backward()
        assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


def test_levels_hold_the_pretrained_parts_in_order_and_the_decoder_is_new() -> None:
    network = unet()
    levels = network.pretrained_modules()
    assert levels[0] == [network.slice_encoder.backbone.conv1, network.slice_encoder.backbone.bn1]
    assert levels[1:5] == [[getattr(network.slice_encoder.backbone, f"layer{n}")] for n in range(1, 5)]
    assert levels[5] == [network.slice_encoder.projection, network.slice_aggregator]
    held = {id(p) for modules in levels for module in modules for p in module.parameters()}
    new = {name.split(".")[0] for name, p in network.named_parameters() if id(p) not in held}
    assert new == {"slice_context", "decoder"}
    assert len(unet(context=False).pretrained_modules()) == 5


def test_what_holds_for_a_whole_slice_reaches_its_scores() -> None:
    """Instance norm would take it away: a deepest map that is constant over a slice would leave no trace."""
    torch.manual_seed(0)
    decoder = SliceDecoder(8, (8,) * 5, (16, 16, 16, 16, 16), 2).train()
    deepest = torch.zeros(2, 8, 2, 2)
    deepest[1] = 3.0
    skips = [torch.zeros(2, 8, 2**level, 2**level) for level in range(2, 7)]
    scores = decoder(deepest, skips)[:, :, 20:-20, 20:-20]  # away from the border, where zeros are padded
    assert (scores[0] - scores[1]).abs().mean() > 0.05


@torch.no_grad()
@pytest.mark.parametrize("kind", [DeformableAggregator, TransformerAggregator, None])
def test_torchscript_computes_the_same(kind: type | None) -> None:
    torch.manual_seed(0)
    aggregator = None if kind is None else kind(8, 2, 2, 4, 12)
    network = ContextSliceUNet(SliceEncoder("resnet18", 1, 8), aggregator, 3, CHANNELS).eval()
    if network.slice_context is not None:
        nn.init.normal_(network.slice_context.output.weight, std=3.0)
    scripted = torch.jit.script(network)
    for x in (volume(2, 1, 40, 64), F.pad(volume(1, 1, 40, 33, 4), (0, 2))):
        torch.testing.assert_close(scripted(x), network(x), rtol=1e-4, atol=1e-4)
    position = torch.arange(4.0)[None] * 3
    x = volume(1, 1, 64, 64, 4)
    torch.testing.assert_close(scripted(x, position), network(x, position), rtol=1e-4, atol=1e-4)


def test_bfloat16_on_a_cpu_agrees_with_float32_for_narrow_images() -> None:
    network = unet(spread=0.1).train()
    for size in ((100, 20), (16, 16)):
        x = volume(2, 1, *size)
        gradients = []
        for amp in (False, True):
            network.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                scores = network(x)
            scores.float().square().mean().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        assert F.cosine_similarity(*gradients, dim=0) > 0.95


def test_what_cannot_work_is_refused() -> None:
    encoder = SliceEncoder("resnet18", 1, 8)
    with pytest.raises(TypeError, match=r"needs the stem's map of a named ResNet, got a backbone TinyStages"):
        ContextSliceUNet(tiny_encoder())
    with pytest.raises(TypeError, match="MeanPool passes nothing from slice to slice"):
        ContextSliceUNet(encoder, MeanPool(8))
    with pytest.raises(ValueError, match="the aggregator takes 16 numbers per slice and the encoder gives 8"):
        ContextSliceUNet(encoder, DeformableAggregator(16, 1, 2, 4, 12))
    with pytest.raises(ValueError, match=r"out_channels must be at least 1 .*got 0 and 1"):
        ContextSliceUNet(encoder, out_channels=0)
    with pytest.raises(ValueError, match=r"decoder_channels must be 5 numbers of 1 or more.*, got \[16, 0, 8, 8, 8\]"):
        ContextSliceUNet(encoder, decoder_channels=(16, 0, 8, 8, 8))
    for shape in ((1, 64, 64), (1, 3, 64, 64)):
        with pytest.raises(ValueError, match=r"image must be B C H W or B C H W S with C = 1"):
            unet()(torch.zeros(shape))


@torch.no_grad()
def test_slices_lie_as_far_apart_as_the_network_was_told() -> None:
    x = volume(2, 1, 64, 64, 5)
    counted, thick = unet(spread=0.5), unet(spread=0.5, slice_spacing=8.0)
    position = torch.arange(5.0).expand(2, -1)
    assert torch.equal(counted(x), counted(x, position))
    assert torch.equal(thick(x), counted(x, 8 * position))
    assert not torch.allclose(thick(x), counted(x))
    assert thick.architecture()["slice_spacing"] == 8.0
    with pytest.raises(ValueError, match="slice_spacing above 0, got 3 and 0"):
        unet(slice_spacing=0)
