# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""2D kernels as 3D ones: what a volume that is the same in all slices answers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from monai_cluster.networks import InflatedUNet, ResNetStages, inflate_kernel, inflate_state_dict
from monai_cluster.weights import load_encoder_weights


@pytest.mark.parametrize("depth", [1, 3, 7])
def test_a_volume_of_equal_slices_answers_as_the_slice_does(depth: int) -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(4, 2, 3, 5, generator=generator, dtype=torch.float64)
    image = torch.randn(1, 2, 9, 8, generator=generator, dtype=torch.float64)
    volume = image[..., None].repeat(1, 1, 1, 1, 11)
    answer = F.conv3d(volume, inflate_kernel(kernel, depth))
    torch.testing.assert_close(answer, F.conv2d(image, kernel)[..., None].expand_as(answer), rtol=0, atol=1e-12)


def test_zero_padding_at_the_ends_takes_its_share_of_the_answer() -> None:
    kernel, image = torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.randn(1, 2, 9, 8, dtype=torch.float64)
    answer = F.conv3d(image[..., None].repeat(1, 1, 1, 1, 6), inflate_kernel(kernel, 5), padding=(0, 0, 2))
    shares = torch.tensor([3, 4, 5, 5, 4, 3], dtype=torch.float64) / 5
    torch.testing.assert_close(answer, F.conv2d(image, kernel)[..., None] * shares)


def test_a_whole_inflated_resnet_answers_in_the_middle_as_the_2d_one() -> None:
    torch.manual_seed(0)
    flat, deep = ResNetStages("resnet18").double().eval(), ResNetStages("resnet18", spatial_dims=3).double().eval()
    deep.load_state_dict(inflate_state_dict(flat.state_dict(), deep))
    image = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        # The first stage sees 7 + 2·(1 + 4 · 2)·2 = 43 slices, so the middle of 64 knows nothing of the ends.
        expected = flat(image)[0]
        maps = deep(image[..., None].repeat(1, 1, 1, 1, 64))[0]
    torch.testing.assert_close(maps[..., 8], expected, rtol=0, atol=1e-12)
    assert (maps[..., 0] - expected).abs().max() > 1e-3  # the ends do notice the padding


def test_the_slice_axis_is_the_last() -> None:
    kernel = torch.randn(1, 1, 3, 5)
    assert inflate_kernel(kernel, 7).shape == (1, 1, 3, 5, 7)
    torch.testing.assert_close(inflate_kernel(kernel, 7).sum(-1), kernel)


def test_loading_says_which_kernels_were_inflated_and_folds_the_stem() -> None:
    torch.manual_seed(0)
    coloured = ResNetStages("resnet18", in_channels=3)
    network = InflatedUNet("resnet18", 1, 2, (16, 16, 16, 16, 16))
    receipt = load_encoder_weights(network.unet.encoder, coloured.state_dict())
    assert receipt.coverage == 1.0
    assert len(receipt.reshaped) == 20
    assert receipt.reshaped["layer4.1.conv2.weight"] == "inflated to depth 3"
    assert receipt.reshaped["conv1.weight"] == "inflated to depth 7, 3 input channels folded to 1"
    assert "(12 more): inflated to depth 3" in str(receipt)
    stem = coloured.conv1.weight.sum(1, keepdim=True)
    torch.testing.assert_close(network.unet.encoder.conv1.weight, inflate_kernel(stem, 7))


def test_a_kernel_that_cannot_be_inflated_is_refused() -> None:
    with pytest.raises(ValueError, match=r"only 2D kernels, out in h w, are inflated"):
        inflate_kernel(torch.zeros(2, 2, 3, 3, 3), 3)
    with pytest.raises(ValueError, match="depth 0"):
        inflate_kernel(torch.zeros(2, 2, 3, 3), 0)
    with pytest.raises(ValueError, match="the 2D state dict has no weight"):
        inflate_state_dict({}, torch.nn.Conv3d(1, 1, 3))
    with pytest.raises(ValueError, match=r"weight is \(1, 2, 3, 3, 3\).*only the slice axis can be added"):
        inflate_state_dict(torch.nn.Conv3d(2, 1, 3).state_dict(), torch.nn.Conv3d(1, 1, 3))
