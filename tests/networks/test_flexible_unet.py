# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Our encoders inside MONAI's FlexibleUNet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import FlexibleUNet

from monai_cluster.networks import ClusterResNetEncoder, SliceEncoder, register_flexible_unet_encoders
from monai_cluster.weights import save_encoder


def unet(**options: object) -> FlexibleUNet:
    register_flexible_unet_encoders()
    arguments = {"in_channels": 1, "out_channels": 2, "backbone": "cluster_resnet18", "spatial_dims": 2}
    return FlexibleUNet(**(arguments | options)).eval()


def test_a_unet_starts_from_a_saved_encoder_and_scripts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = SliceEncoder("resnet18", embedding_dim=8).eval()
    network = unet(pretrained=str(save_encoder(tmp_path, encoder)))
    x = torch.randn(1, 1, 64, 64)
    maps = network.encoder(x)
    torch.testing.assert_close(maps[1:], encoder.pyramid(x))
    assert [x.shape[-1] // part.shape[-1] for part in maps] == [2, 4, 8, 16, 32]
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))


@pytest.mark.parametrize("name", ClusterResNetEncoder.get_encoder_names())
def test_the_announced_channels_are_those_of_the_maps(name: str) -> None:
    place = ClusterResNetEncoder.get_encoder_names().index(name)
    with torch.device("meta"):
        maps = ClusterResNetEncoder(name)(torch.zeros(2, 1, 32, 32))
    assert tuple(part.shape[1] for part in maps) == ClusterResNetEncoder.num_channels_per_output()[place]
    assert len(maps) == ClusterResNetEncoder.num_outputs()[place]


def test_three_dimensions_give_a_label_per_voxel() -> None:
    torch.manual_seed(0)
    network = unet(spatial_dims=3)
    out = network(torch.randn(1, 1, 32, 32, 32))
    assert out.shape == (1, 2, 32, 32, 32)
    assert out.std() > 0


def test_weights_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is downloaded: give pretrained the path"):
        unet(pretrained=True)
    with pytest.raises(FileNotFoundError, match="no weights file"):
        unet(pretrained=str(tmp_path / "absent.pt"))
    torch.save(ClusterResNetEncoder("cluster_resnet34").state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"covers .* It looks like resnet34"):
        unet(pretrained=str(tmp_path / "other.pt"))


def test_a_3d_unet_starts_from_a_2d_file_with_inflated_kernels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = SliceEncoder("resnet18", embedding_dim=8).eval()
    network = unet(pretrained=str(save_encoder(tmp_path, encoder)), spatial_dims=3)
    flat, deep = encoder.backbone.layer1[0].conv1.weight, network.encoder.layer1[0].conv1.weight
    torch.testing.assert_close(deep, flat[..., None].expand_as(deep) / 3)
