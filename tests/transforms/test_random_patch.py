# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Patches: where they are, what a rotation or flip does, and that image and label move together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_cluster.transforms import RandImageAffined, RandLabelledPatchd, finetune_intensity
from monai_cluster.transforms.random_patch import sample_patch


def labelled(shape=(20, 24, 12), spacing=(1.0, 1.0, 1.0)) -> dict[str, torch.Tensor]:
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    label = (image > 0.9).to(torch.uint8)
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return {"image": MetaTensor(image, affine=affine), "label": MetaTensor(label, affine=affine)}


def test_without_rotation_zoom_and_flip_a_patch_is_a_piece_of_the_image() -> None:
    ramp = torch.stack(torch.meshgrid(*[torch.arange(n).float() for n in (20, 24, 12)], indexing="ij"))
    label = torch.zeros(1, 20, 24, 12)
    cut = RandLabelledPatchd((8, 8, 4), rotation_degrees=0, zoom=0, foreground_share=0.0)
    cut.set_random_state(3)
    patch = cut({"image": ramp, "label": label})["image"]
    steps = torch.stack(torch.meshgrid(*[torch.arange(n).float() for n in (8, 8, 4)], indexing="ij"))
    start = patch[:, 0, 0, 0].view(3, 1, 1, 1)  # index values are linear, so interpolation gives them exactly
    torch.testing.assert_close(patch, start + steps, atol=1e-4, rtol=0)
    assert all(
        0 <= float(low) <= size - cut_size for low, size, cut_size in zip(start, (20, 24, 12), (8, 8, 4), strict=True)
    )


def test_a_patch_as_large_as_the_image_is_the_image() -> None:
    data = labelled()
    cut = RandLabelledPatchd((20, 24, 12), rotation_degrees=0, zoom=0, foreground_share=0.0)
    patch = cut(data)
    torch.testing.assert_close(patch["image"], data["image"].as_tensor(), atol=1e-5, rtol=0)
    assert torch.equal(patch["label"], data["label"].as_tensor())


def test_a_flip_mirrors_image_and_label_alike() -> None:
    data = labelled()
    cut = RandLabelledPatchd((20, 24, 12), rotation_degrees=0, zoom=0, foreground_share=0.0, flip_axes=(1,))
    seen = set()
    for seed in range(8):
        cut.set_random_state(seed)
        patch = cut(data)
        mirrored = not torch.allclose(patch["image"], data["image"].as_tensor(), atol=1e-5)
        wanted = data["image"].as_tensor().flip(2) if mirrored else data["image"].as_tensor()
        torch.testing.assert_close(patch["image"], wanted, atol=1e-5, rtol=0)
        wanted_label = data["label"].as_tensor().flip(2) if mirrored else data["label"].as_tensor()
        assert torch.equal(patch["label"], wanted_label)
        seen.add(mirrored)
    assert seen == {True, False}


def test_a_quarter_turn_is_a_quarter_turn_in_millimetres() -> None:
    source = torch.rand(1, 9, 9, 3)
    matrix = torch.tensor([[0.0, -1, 0, 8], [1, 0, 0, 0], [0, 0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(
        sample_patch(source, matrix, (9, 9, 3)), source.rot90(1, (1, 2)).flip((1, 2)), atol=1e-5, rtol=0
    )
    # With pixels twice as wide one way, the same turn takes half as many steps that way.
    cut = RandLabelledPatchd((5, 5), rotation_degrees=90, zoom=0, foreground_share=0)
    cut.R = np.random.RandomState(0)
    found = cut._matrix(np.zeros(2), torch.tensor([1.0, 2.0], dtype=torch.float64))[:, :2].numpy()
    angle = math.atan2(found[1, 0] * 2, found[0, 0])
    assert found[0, 1] == pytest.approx(-math.sin(angle) * 2)
    assert found[1, 1] == pytest.approx(math.cos(angle))


def test_foreground_patches_hold_foreground_of_every_class_equally_often() -> None:
    image = torch.zeros(1, 60, 60)
    label = torch.zeros(1, 60, 60, dtype=torch.uint8)
    label[0, 5:7, 5:7] = 1  # 4 pixels
    label[0, 30:50, 30:50] = 2  # 400 pixels
    cut = RandLabelledPatchd((16, 16), foreground_share=1.0, rotation_degrees=0, zoom=0)
    cut.set_random_state(1)
    small = [bool((cut({"image": image, "label": label})["label"] == 1).any()) for _ in range(200)]
    assert 0.4 < np.mean(small) < 0.6


def test_places_outside_the_image_are_zero_background() -> None:
    data = {"image": torch.ones(1, 6, 6), "label": torch.ones(1, 6, 6, dtype=torch.uint8)}
    patch = RandLabelledPatchd((10, 10), rotation_degrees=0, zoom=0, foreground_share=0.0)(data)
    assert float(patch["image"].sum()) == pytest.approx(36)
    assert int(patch["label"].sum()) == 36
    assert float(patch["image"][0, 0].sum()) == pytest.approx(0, abs=1e-5)


def test_thick_slices_are_not_zoomed_through() -> None:
    cut = RandLabelledPatchd((8, 8, 4), zoom=0.3, rotation_degrees=0)
    cut.R = np.random.RandomState(0)
    thick = cut._matrix(np.zeros(3), torch.tensor([1.0, 1, 5], dtype=torch.float64))
    assert float(thick[2, 2]) == 1
    assert float(thick[0, 0]) != 1


def test_a_whole_image_keeps_its_size_and_an_idle_affine_its_values() -> None:
    data = {"image": torch.rand(2, 11, 13)}
    idle = RandImageAffined(0, 0, 0)(data)["image"]
    torch.testing.assert_close(idle, data["image"], atol=1e-5, rtol=0)
    moved = RandImageAffined(0, 0, 0.3)
    moved.set_random_state(0)
    assert not torch.allclose(moved(data)["image"], data["image"], atol=1e-3)


def test_intensity_of_strength_zero_changes_nothing_and_of_one_moves_no_voxel() -> None:
    spot = torch.zeros(1, 15, 15, 5)
    spot[0, 7, 7, 2] = 1
    assert torch.equal(finetune_intensity(strength=0)({"image": spot.clone()})["image"], spot)
    changed = finetune_intensity(strength=1.0)
    for seed in range(6):
        changed.set_random_state(seed)
        found = torch.as_tensor(changed({"image": spot.clone()})["image"])
        assert int(found.argmax()) == int(spot.argmax())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (4,)}, "two or three numbers"),
        ({"size": (4, 4), "foreground_share": 2}, "foreground_share must lie in"),
        ({"size": (4, 4), "zoom": 1}, "rotation_degrees must be 0 or more and zoom"),
        ({"size": (4, 4), "flip_axes": (2,)}, "flip_axes must be axes 0..1"),
    ],
)
def test_impossible_patches_are_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandLabelledPatchd(**arguments)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="rotation_degrees and shift"):
        RandImageAffined(shift=-1)
    with pytest.raises(ValueError, match="strength must be 0 or more"):
        finetune_intensity(strength=-1)
    with pytest.raises(ValueError, match="must have one grid"):
        RandLabelledPatchd((4, 4))({"image": torch.zeros(1, 8, 8), "label": torch.zeros(1, 8, 9)})
