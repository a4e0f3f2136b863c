# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The baseline without pretraining: MONAI's network, at any size."""

from __future__ import annotations

import pytest
import torch

from monai_cluster.networks import DynUNetBaseline


@pytest.mark.parametrize("slice_levels", [0, 1, 2])
def test_it_is_monais_network_where_nothing_must_be_padded(slice_levels: int) -> None:
    torch.manual_seed(0)
    network = DynUNetBaseline(3, 1, 3, (4, 8, 8), slice_levels).eval()
    image = torch.rand(1, 1, 16, 16, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(image), network.unet(image))
        odd = network(image[..., :15, :13, :5])
    assert odd.shape == (1, 3, 15, 13, 5)
    whole = torch.zeros_like(image)
    whole[..., :15, :13, :5] = image[..., :15, :13, :5]
    # slices are padded to two cells of the deepest level, so 5 slices become 8 only with two slice levels
    if slice_levels == 2:
        with torch.no_grad():
            torch.testing.assert_close(odd, network.unet(whole)[..., :15, :13, :5])


def test_only_the_deepest_levels_halve_the_slices() -> None:
    network = DynUNetBaseline(3, 1, 2, (4, 8, 8), 0)
    assert [list(stride) for stride in network.unet.strides[1:]] == [[2, 2, 1]] * 2
    assert [list(stride) for stride in DynUNetBaseline(3, 1, 2, (4, 8, 8), 1).unet.strides[1:]] == [
        [2, 2, 1],
        [2, 2, 2],
    ]


def test_it_has_nothing_pretrained_and_is_rebuilt_from_its_description() -> None:
    network = DynUNetBaseline(2, 1, 2, (4, 8, 8), 1)
    assert network.pretrained_modules() == []
    again = DynUNetBaseline(**network.architecture())
    again.load_state_dict(network.state_dict())
    image = torch.rand(2, 1, 12, 20)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(image), network.eval()(image))


def test_impossible_levels_are_refused() -> None:
    for arguments in ({"filters": (8, 8)}, {"filters": (8, 8, 8), "slice_levels": 3}):
        with pytest.raises(ValueError, match="at least three levels"):
            DynUNetBaseline(3, 1, 2, **arguments)
