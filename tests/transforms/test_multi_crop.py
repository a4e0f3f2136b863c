# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Random resized crops and multi-crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from PIL import Image
from torch.nn import functional as F

from monai_cluster.transforms import MultiCrop, MultiCropd, RandResizedCrop, RandResizedCropd


def image(height: int = 40, width: int = 56) -> torch.Tensor:
    return torch.rand(1, height, width, generator=torch.Generator().manual_seed(3))


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(24, 300),
    width=st.integers(24, 300),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([(0.05, 0.14), (0.14, 1.0), (0.5, 0.6)]),
)
def test_boxes_lie_inside_and_their_area_in_the_scale_range(
    height: int, width: int, seed: int, scale: tuple[float, float]
) -> None:
    crop = RandResizedCrop(8, scale).set_random_state(seed)
    crop.randomize((height, width))
    top, left, h, w = crop.box
    assert top >= 0
    assert left >= 0
    assert top + h <= height
    assert left + w <= width
    rounding = (h + w) / 2 / (height * width)  # only boxes of long, thin images are not checked after rounding
    assert scale[0] - rounding <= h * w / (height * width) <= scale[1] + rounding


def test_rounding_takes_no_box_of_a_small_image_out_of_the_range() -> None:
    crop = RandResizedCrop(8, (0.05, 0.14)).set_random_state(0)
    for _ in range(500):
        crop.randomize((28, 28))
        assert 0.05 <= crop.box[2] * crop.box[3] / 28**2 <= 0.14


def test_the_areas_fill_the_range_and_the_shapes_the_ratio() -> None:
    crop = RandResizedCrop(8, (0.2, 0.8), (0.5, 2.0)).set_random_state(0)
    boxes = []
    for _ in range(500):
        crop.randomize((200, 200))
        boxes.append(crop.box)
    area = np.array([h * w for _, _, h, w in boxes]) / 40_000
    ratio = np.array([h / w for _, _, h, w in boxes])
    assert area.min() < 0.25
    assert area.max() > 0.72
    assert 0.49 < ratio.min() < 0.6
    assert 1.7 < ratio.max() < 2.04


@pytest.mark.parametrize("size", [8, 20, 64])
def test_the_resize_is_pillows_antialiased_bilinear_resize_of_the_box(size: int) -> None:
    source = image()
    crop = RandResizedCrop(size, (0.3, 0.9)).set_random_state(5)
    result = crop(source)
    top, left, height, width = crop.box
    cut = Image.fromarray(source[0, top : top + height, left : left + width].numpy())
    expected = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-5)


def test_a_whole_crop_at_the_same_size_is_the_image_itself() -> None:
    source = image(32, 32)
    assert torch.allclose(RandResizedCrop(32, (1.0, 1.0), (1.0, 1.0))(source), source)


def test_a_volume_is_cropped_like_each_of_its_slices() -> None:
    volume = torch.rand(2, 30, 40, 5, generator=torch.Generator().manual_seed(1))
    crop = RandResizedCrop((12, 16), (0.2, 0.5))
    whole = crop.set_random_state(4)(volume)
    for s in range(5):
        torch.testing.assert_close(whole[..., s], crop.set_random_state(4)(volume[..., s]))


def test_multi_crop_gives_two_large_and_several_small_crops_the_same_for_a_seed() -> None:
    crops = MultiCropd("image", 24, 12, 2, 3)
    runs = [crops.set_random_state(9)({"image": MetaTensor(image())})["views"] for _ in range(2)]
    assert [tuple(view.shape[1:]) for view in runs[0]] == [(24, 24)] * 2 + [(12, 12)] * 3
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert not torch.equal(runs[0][0], runs[0][1])
    array = MultiCrop(24, 12, 2, 3).set_random_state(9)(image())
    assert [tuple(view.shape[1:]) for view in array] == [(24, 24)] * 2 + [(12, 12)] * 3


def test_small_crops_cover_little_of_a_gradient_and_large_ones_more() -> None:
    ramp = torch.linspace(0, 1, 200).expand(1, 200, 200)
    views = MultiCrop(32, 32, 2, 6, (0.5, 1.0), (0.05, 0.1)).set_random_state(1)(ramp)
    spread = [float(view.max() - view.min()) for view in views]
    assert min(spread[:2]) > 0.5
    assert max(spread[2:]) < 0.4


def test_black_crops_are_avoided_where_the_image_has_something_to_show() -> None:
    spot = torch.zeros(1, 100, 100)
    spot[:, 40:60, 40:60] = 0.7

    def shares(min_foreground: float) -> list[float]:
        crop = RandResizedCrop(16, (0.05, 0.14), min_foreground=min_foreground).set_random_state(2)
        return [float((crop(spot) > 0).float().mean()) for _ in range(60)]

    assert sum(share == 0 for share in shares(0.0)) > 15
    assert sum(share < 0.05 for share in shares(0.05)) <= 3
    crop = RandResizedCrop(16, (0.05, 0.14), min_foreground=0.5)
    assert torch.equal(crop.set_random_state(1)(spot * 0), torch.zeros(1, 16, 16))
    chosen = crop.set_random_state(1)(spot)
    top, left, height, width = crop.box
    same_box = F.interpolate(
        spot[None, :, top : top + height, left : left + width], size=(16, 16), mode="bilinear", antialias=True
    )
    assert torch.equal(chosen, same_box[0])


def test_wrong_arguments_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        RandResizedCrop(0)
    with pytest.raises(ValueError, match="scale must be"):
        RandResizedCrop(8, (0.5, 0.2))
    with pytest.raises(ValueError, match="scale must be"):
        RandResizedCropd("image", 8, (0.5, 1.2))
    with pytest.raises(ValueError, match="ratio must be"):
        RandResizedCrop(8, ratio=(0, 1))
    with pytest.raises(ValueError, match="is a share"):
        RandResizedCrop(8, min_foreground=2)
    with pytest.raises(ValueError, match="C H W"):
        RandResizedCrop(8)(torch.zeros(4, 4))
