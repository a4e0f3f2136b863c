# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Volumes to slices and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from monai_cluster.transforms import (
    RandVolumeFlipd,
    SelectSlice,
    SelectSliced,
    SliceVolume,
    SliceVolumed,
    StackSlices,
    StackSlicesd,
)
from monai_cluster.transforms.slice_geometry import resolve_axis, slice_positions

PLANES = ("sagittal", "coronal", "axial")


def oblique(seed: int) -> torch.Tensor:
    """A random rotation times random spacing, axes permuted and flipped, and an offset."""
    random = np.random.default_rng(seed)
    turn = Rotation.from_rotvec(random.uniform(-0.3, 0.3, 3)).as_matrix()
    order = np.eye(3)[random.permutation(3)] * random.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = turn @ order * random.uniform(0.5, 4, 3)
    affine[:3, 3] = random.uniform(-100, 100, 3)
    return torch.from_numpy(affine)


def volume(shape: tuple[int, ...] = (2, 4, 5, 6), affine: torch.Tensor | None = None) -> MetaTensor:
    data = torch.rand(shape, generator=torch.Generator().manual_seed(7))
    return MetaTensor(data, affine=torch.eye(4, dtype=torch.float64) if affine is None else affine)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), axis=st.sampled_from([0, 1, 2, -1, *PLANES]))
def test_slicing_all_and_stacking_is_the_identity_with_the_affine(seed: int, axis: int | str) -> None:
    source = volume(affine=oblique(seed))
    back = StackSlices()(SliceVolume(axis)(source))
    assert torch.equal(back.as_tensor(), source.as_tensor())
    assert torch.equal(back.affine, source.affine)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), every=st.integers(1, 3), plane=st.sampled_from(PLANES))
def test_every_kept_voxel_stays_where_it_was_in_millimetres(seed: int, every: int, plane: str) -> None:
    affine = oblique(seed)
    source = volume(affine=affine)
    axis = resolve_axis(plane, affine)
    sliced = SliceVolume(plane, every=every)(source)
    for h, w, s in itertools.product((0, 2), (1, 3), range(sliced.shape[-1])):
        index = [h, w]
        index.insert(axis, int(sliced.meta["slice_index"][s]))
        assert torch.equal(sliced.as_tensor()[:, h, w, s], source.as_tensor()[(slice(None), *index)])
        here = sliced.affine @ torch.tensor([h, w, s, 1.0], dtype=torch.float64)
        there = affine @ torch.tensor([*index, 1.0], dtype=torch.float64)
        torch.testing.assert_close(here, there, atol=1e-9, rtol=0)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PLI", "ASR", "SRA", "IAL", "SPL"])
def test_an_anatomical_plane_is_found_however_the_file_is_stored(codes: str) -> None:
    affine = torch.zeros(4, 4, dtype=torch.float64)
    affine[3, 3] = 1
    for axis, code in enumerate(codes):  # code: the direction in which the index grows
        world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[world, axis] = 1.0 if code in "RAS" else -1.0
    assert codes[resolve_axis("axial", affine)] in "SI"
    assert codes[resolve_axis("coronal", affine)] in "AP"
    assert codes[resolve_axis("sagittal", affine)] in "RL"


def test_positions_of_straight_axial_slices_are_their_height_above_the_origin() -> None:
    down = torch.diag(torch.tensor([1.0, 2.0, -3.0, 1.0], dtype=torch.float64))
    down[2, 3] = 50
    assert slice_positions(down, 2, 4).tolist() == [50, 47, 44, 41]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), axis=st.integers(0, 2))
def test_positions_are_the_projection_of_any_voxel_of_the_slice_on_the_normal(seed: int, axis: int) -> None:
    affine = oblique(seed)
    affine[:3, axis] += 0.2 * affine[:3, (axis + 1) % 3]  # sheared like a tilted gantry
    positions = slice_positions(affine, axis, 5).double()
    inverse_row = torch.linalg.inv(affine)[axis, :3]  # the gradient of the slice index is the plane's normal
    normal = inverse_row / inverse_row.norm()
    normal = normal * torch.sign(normal[normal.abs().argmax()])
    for k in range(5):
        index = torch.tensor([3.0, 1.0, 2.0, 1.0], dtype=torch.float64)
        index[axis] = k
        assert float((affine @ index)[:3] @ normal) == pytest.approx(float(positions[k]), abs=1e-3)


@pytest.mark.parametrize("sampling", ["random", "even", "window"])
def test_drawn_slices_ascend_and_are_the_sources(sampling: str) -> None:
    source = volume((1, 3, 3, 20))
    slicer = SliceVolume(2, num_slices=6, sampling=sampling)
    seen: set[int] = set()
    for seed in range(60):
        sliced = slicer.set_random_state(seed)(source)
        index = sliced.meta["slice_index"]
        assert (index.diff() > 0).all()
        assert torch.equal(sliced.as_tensor(), source.as_tensor()[..., index])
        if sampling == "window":
            assert (index.diff() == 1).all()
        if sampling == "even":
            assert set(index.diff().tolist()) <= {3, 4}
        seen |= set(index.tolist())
    assert seen == set(range(20))


def test_a_short_volume_keeps_all_slices_and_padding_is_marked() -> None:
    sliced = SliceVolume(2, num_slices=9, pad_to=8)(volume((1, 3, 3, 5)))
    assert sliced.meta["slice_index"].tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
    assert sliced.meta["padded"].tolist() == [False] * 5 + [True] * 3
    assert sliced.meta["slice_position"][5:].tolist() == [0, 0, 0]
    assert sliced.as_tensor()[..., 5:].abs().sum() == 0
    assert torch.equal(StackSlices()(sliced).as_tensor(), volume((1, 3, 3, 5)).as_tensor())


def test_stacking_a_choice_fills_what_was_left_out() -> None:
    source = volume((1, 3, 3, 6))
    back = StackSlices(fill=-2)(SliceVolume(2, every=2)(source)).as_tensor()
    assert torch.equal(back[..., ::2], source.as_tensor()[..., ::2])
    assert (back[..., 1::2] == -2).all()


def test_the_dictionary_form_cuts_all_keys_alike_and_stacks_back() -> None:
    source = {"image": volume(affine=oblique(3)), "label": volume(affine=oblique(3)) * 2}
    sliced = SliceVolumed(["image", "label"], 1, num_slices=3).set_random_state(1)(source)
    assert torch.equal(sliced["label"].as_tensor(), sliced["image"].as_tensor() * 2)
    assert len(sliced["slice_index"]) == len(sliced["slice_position"]) == len(sliced["padded"]) == 3
    whole = StackSlicesd("image")(SliceVolumed("image", "axial")(source))
    assert torch.equal(whole["image"].as_tensor(), source["image"].as_tensor())
    assert "slice_index" not in whole


def test_slices_of_slices_speak_of_the_first_source() -> None:
    affine = torch.diag(torch.tensor([1.0, 1, 2.5, 1], dtype=torch.float64))
    first = SliceVolumed("image", 2, num_slices=6)
    second = SliceVolumed("image", 2, num_slices=3, pad_to=4)
    source = volume((1, 3, 3, 20), affine)
    once = first.set_random_state(4)({"image": source})
    twice = second.set_random_state(5)(once)
    index = twice["slice_index"]
    assert set(index[:3].tolist()) <= set(once["slice_index"].tolist())
    assert index[3] == -1
    assert torch.equal(twice["image"].as_tensor()[..., :3], source.as_tensor()[..., index[:3]])
    torch.testing.assert_close(twice["slice_position"][:3], index[:3] * 2.5)


def test_a_flip_keeps_index_position_and_padding_with_their_slices() -> None:
    source = volume((1, 3, 3, 7))
    sliced = SliceVolumed("image", 2, num_slices=5, pad_to=6).set_random_state(0)({"image": source})
    flipped = RandVolumeFlipd("image", axes=(2,))(sliced)
    assert flipped["slice_index"].tolist() == sliced["slice_index"].tolist()[::-1]
    for s, index in enumerate(flipped["slice_index"].tolist()):
        assert bool(flipped["padded"][s]) == (index == -1)
        if index >= 0:
            assert torch.equal(flipped["image"][..., s], source.as_tensor()[..., index])
            assert float(flipped["slice_position"][s]) == index


@pytest.mark.parametrize(("index", "taken"), [(None, 3), (0, 0), (-1, 5)])
def test_one_slice_is_the_sources_and_lies_where_it_lay(index: int | None, taken: int) -> None:
    source = volume(affine=oblique(11))
    image = SelectSlice(index, axis=2)(source)
    assert torch.equal(image.as_tensor(), source.as_tensor()[..., taken])
    here = image.affine @ torch.tensor([1.0, 2, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(here, source.affine @ torch.tensor([1.0, 2, taken, 1], dtype=torch.float64))
    assert SelectSliced("image", index, axis=2)({"image": source})["slice_index"] == taken


def test_wrong_arguments_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="name one of these planes"):
        SliceVolume("transverse")
    with pytest.raises(ValueError, match="one of these planes"):
        resolve_axis("transverse", torch.eye(4))
    with pytest.raises(ValueError, match=r"-3\.\.2"):
        SliceVolume(3)(volume())
    with pytest.raises(ValueError, match="every must be at least 1"):
        SliceVolume(every=0)
    with pytest.raises(ValueError, match="sampling must be"):
        SliceVolume(sampling="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="raise pad_to"):
        SliceVolume(2, pad_to=3)(volume())
    with pytest.raises(ValueError, match="four axes"):
        SliceVolume(2)(torch.zeros(3, 4, 5))
    with pytest.raises(ValueError, match="made by SliceVolume"):
        StackSlices()(volume())
    with pytest.raises(ValueError, match=r"0\.\.5"):
        SelectSlice(6, axis=2)(volume())
