# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The augmentations of volumes and images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import RandAffine, Randomizable
from scipy.ndimage import gaussian_filter1d

from monai_cluster.transforms import (
    InPlane,
    InPlaned,
    RandAnisotropy,
    RandAnisotropyd,
    RandEdgeBlur,
    RandEdgeBlurd,
    RandVolumeFlipd,
    image_augmentations,
    volume_augmentations,
)
from monai_cluster.transforms.blur import blur_axis
from monai_cluster.transforms.volume_augment import VOLUME_AUGMENTATIONS


def volume(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (1, 20, 24, 9), generator=torch.Generator().manual_seed(2))


def apply(name: str, data: torch.Tensor, seed: int, through_plane: bool = False) -> torch.Tensor:
    (transform,) = volume_augmentations("image", (name,), through_plane)
    assert isinstance(transform, Randomizable)
    transform.set_random_state(seed=seed)
    return torch.as_tensor(transform({"image": data})["image"])


@pytest.mark.parametrize("name", VOLUME_AUGMENTATIONS)
@pytest.mark.parametrize("through_plane", [False, True])
def test_each_of_the_seven_changes_the_volume_repeatably_and_keeps_its_shape(name: str, through_plane: bool) -> None:
    source = volume()
    before = source.clone()
    results = [apply(name, source, seed, through_plane) for seed in (1, 1, 2)]
    assert torch.equal(source, before)
    assert results[0].shape == source.shape
    assert torch.isfinite(results[0]).all()
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], source, atol=1e-4)
    if name != "flip":
        assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", [name for name in VOLUME_AUGMENTATIONS if name not in ("noise", "flip")])
def test_no_slice_leaks_into_another_while_slices_are_matched(name: str) -> None:
    single = torch.zeros(1, 20, 24, 9)
    single[..., 4] = volume()[..., 4]
    for seed in range(5):
        result = apply(name, single, seed)
        others = [s for s in range(9) if s != 4]
        assert result[..., 4].abs().sum() > 0
        assert result[..., others].abs().max() < 1e-6


@pytest.mark.parametrize("name", ["blur", "affine"])
def test_slices_may_mix_where_they_are_not_matched(name: str) -> None:
    single = torch.zeros(1, 20, 24, 9)
    single[..., 4] = 1
    assert max(float(apply(name, single, seed, True)[..., [2, 3, 5, 6]].max()) for seed in range(5)) > 0.05


def test_in_plane_equals_slice_by_slice_with_one_draw() -> None:
    def affine(seed: int) -> RandAffine:
        return RandAffine(prob=1.0, rotate_range=(0.4,), scale_range=(0.2, 0.2), padding_mode="zeros").set_random_state(
            seed
        )

    source = volume(2, 16, 18, 5)
    whole = InPlane(affine(0)).set_random_state(6)(source)
    for s in range(5):
        expected = torch.as_tensor(affine(6)(source[..., s]))
        torch.testing.assert_close(whole[..., s], expected, atol=1e-5, rtol=0)
    again = InPlaned("image", affine(0)).set_random_state(6)({"image": source})["image"]
    assert torch.equal(again, whole)


def test_anisotropy_leaves_constants_and_straight_lines_inside_alone_and_removes_detail() -> None:
    constant = torch.full((1, 12, 12, 12), 0.3)
    for axes in ((0,), (1,), (2,)):
        thick = RandAnisotropy((3.0, 3.0), axes).set_random_state(0)
        torch.testing.assert_close(thick(constant), constant)
        stripes = (torch.arange(12) % 2).float()
        shape = [1, 1, 1, 1]
        shape[axes[0] + 1] = 12
        detail = stripes.reshape(shape).expand(1, 12, 12, 12)
        assert thick(detail).var() < 0.1 * detail.var()
        across = detail.movedim(axes[0] + 1, 1 + (axes[0] + 1) % 3)
        torch.testing.assert_close(thick(across.contiguous()), across.contiguous())


def test_a_flip_is_its_own_inverse_and_takes_every_subset_of_axes() -> None:
    source, seen = volume(), set()
    for seed in range(60):
        flip = RandVolumeFlipd("image").set_random_state(seed)
        axes = tuple(flip.draw())
        flipped = flip.set_random_state(seed)({"image": source})["image"]
        assert torch.equal(torch.flip(flipped, [axis + 1 for axis in axes]), source)
        seen.add(axes)
    assert len(seen) == 7


@settings(max_examples=40, deadline=None)
@given(sigma=st.floats(0.2, 3.0), axis=st.integers(1, 3))
def test_the_blur_is_scipys_with_the_edge_repeated(sigma: float, axis: int) -> None:
    source = volume(1, 11, 7, 5)
    expected = gaussian_filter1d(source.numpy(), sigma, axis=axis, mode="nearest")
    torch.testing.assert_close(blur_axis(source, sigma, axis), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_the_blur_draws_no_dark_frame_and_sigma_zero_is_the_identity() -> None:
    white = torch.ones(1, 16, 16)
    torch.testing.assert_close(RandEdgeBlur([(2.0, 2.0)] * 2)(white), white)
    source = volume(1, 8, 8)
    assert torch.equal(RandEdgeBlurd("image", [(0.0, 0.0)] * 2)({"image": source})["image"], source)
    assert torch.equal(RandEdgeBlur([(2.0, 2.0)] * 2, prob=0.0)(source), source)


def test_strength_zero_leaves_flips_only() -> None:
    source = volume(1, 6, 6)
    flips = image_augmentations(strength=0)
    variants = [source, source.flip(1), source.flip(2), source.flip(1, 2)]
    seen = set()
    for seed in range(40):
        result = torch.as_tensor(flips.set_random_state(seed=seed)({"image": source})["image"])
        matches = [i for i, variant in enumerate(variants) if torch.equal(result, variant)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == {0, 1, 2, 3}


def test_stronger_augmentation_moves_intensities_further() -> None:
    source = volume(1, 32, 32)

    def change(strength: float) -> float:
        transform = image_augmentations(strength=strength)
        means = [
            torch.as_tensor(transform.set_random_state(seed=s)({"image": source})["image"]).mean() for s in range(40)
        ]
        return float(torch.stack(means).std())

    assert 0 < change(0.3) < 0.7 * change(1.0)


def test_wrong_arguments_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="did you mean 'bias_field'"):
        volume_augmentations("image", ("bias field",))
    with pytest.raises(ValueError, match="factors must be"):
        RandAnisotropy((0.5, 2))
    with pytest.raises(ValueError, match="axes must be some of"):
        RandAnisotropyd("image", axes=(3,))
    with pytest.raises(ValueError, match="axes must be some of"):
        RandVolumeFlipd("image", axes=())
    with pytest.raises(ValueError, match="sigmas must ascend"):
        RandEdgeBlur([(2, 1)])
    with pytest.raises(ValueError, match="one range per spatial axis"):
        RandEdgeBlur([(1, 1)])(volume())
    with pytest.raises(ValueError, match="must not be negative"):
        image_augmentations(strength=-1)
