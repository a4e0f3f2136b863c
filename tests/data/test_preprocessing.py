# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From a row to intensities in 0..1 at the wanted size."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_cluster.data import (
    FitInPlaned,
    LoadSampled,
    SelectChanneld,
    ThinSlicesd,
    image_preprocessing,
    load_datalist,
    volume_preprocessing,
)


def write_marked_volume(path: Path, codes: str) -> np.ndarray:
    """An elongated body with a bright mark on its left front top; returns the mark's RAS millimetres."""
    size = {"R": 40, "A": 24, "S": 20}
    array = np.zeros((40, 24, 20), np.float32)
    array[4:36, 4:20, 2:18] = 0.4
    array[6:10, 15:19, 13:17] = 1.0  # small R index: left
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    affine[:3, 3] = [-20, -18, -20]
    image = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    ornt = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    nib.save(image.as_reoriented(ornt), path)
    assert size["R"] == array.shape[0]
    return affine[:3] @ [7.5, 16.5, 14.5, 1]


def centre_of_mark(volume: MetaTensor) -> np.ndarray:
    """RAS millimetres of the brightest blob."""
    bright = np.argwhere(volume[0].numpy() > 0.8)
    return (volume.affine.numpy() @ [*bright.mean(0), 1])[:3]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PLI", "SAR"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("upright", [False, True])
def test_the_mark_stays_where_it_was_in_millimetres(tmp_path: Path, codes: str, plane: str, upright: bool) -> None:
    where = write_marked_volume(tmp_path / "v.nii.gz", codes)
    load = volume_preprocessing(size=48, plane=plane, upright=upright, max_slices=16, percentiles=(0, 100))
    volume = load({"image": str(tmp_path / "v.nii.gz")})["image"]
    assert volume.shape[1:3] == (48, 48)
    assert volume.shape[-1] <= 16
    np.testing.assert_allclose(centre_of_mark(volume), where, atol=2.0)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR"])
def test_upright_slices_have_front_or_head_on_top_and_the_right_on_the_left(tmp_path: Path, codes: str) -> None:
    write_marked_volume(tmp_path / "v.nii.gz", codes)
    middle = 24
    places = {}
    for plane in ("axial", "coronal", "sagittal"):
        load = volume_preprocessing(size=48, plane=plane, upright=True, percentiles=(0, 100))
        volume = load({"image": str(tmp_path / "v.nii.gz")})["image"][0].numpy()
        places[plane] = np.argwhere(volume > 0.8).mean(0)[:2]
    assert places["axial"][0] < middle
    assert places["axial"][1] > middle
    assert places["coronal"][0] < middle
    assert places["coronal"][1] > middle
    assert places["sagittal"][0] < middle
    assert places["sagittal"][1] < middle


def test_monais_order_is_right_then_front(tmp_path: Path) -> None:
    write_marked_volume(tmp_path / "v.nii.gz", "LPS")
    load = volume_preprocessing(size=48, percentiles=(0, 100))
    volume = load({"image": str(tmp_path / "v.nii.gz")})["image"][0].numpy()
    h, w, s = np.argwhere(volume > 0.8).mean(0)
    assert h < 24
    assert w > 24
    assert s > 10


def test_a_round_body_in_oblong_pixels_becomes_round() -> None:
    h, w = np.meshgrid(np.arange(60), np.arange(20), indexing="ij")
    disk = (((h - 29.5) * 1.0) ** 2 + ((w - 9.5) * 3.0) ** 2 < 20**2).astype(np.float32)
    affine = torch.diag(torch.tensor([1.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.from_numpy(disk)[None], affine=affine)
    fitted = FitInPlaned("image", 64)({"image": image})["image"][0].numpy() > 0.5
    rows, columns = np.flatnonzero(fitted.any(1)), np.flatnonzero(fitted.any(0))
    assert len(rows) == pytest.approx(len(columns), abs=3)
    stretched = FitInPlaned("image", 60, keep_aspect=False)({"image": image})["image"]
    assert stretched.shape == (1, 60, 60)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (64, 64)])
def test_the_affine_follows_resize_and_padding(shape: tuple[int, int]) -> None:
    blob = torch.zeros(1, *shape)
    blob[0, 10:14, 20:26] = 1
    affine = torch.diag(torch.tensor([-2.0, 2.0, 1.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([5.0, -7.0, 1.0])
    source = MetaTensor(blob, affine=affine)
    where = affine.numpy() @ [11.5, 22.5, 0, 1]
    for pad in (True, False):
        result = FitInPlaned("image", 80, pad=pad)({"image": source})["image"]
        weights = result[0].numpy()
        h, w = (np.indices(weights.shape) * weights).sum((1, 2)) / weights.sum()
        np.testing.assert_allclose(result.affine.numpy() @ [h, w, 0, 1], where, atol=0.05)
        assert max(result.shape) == 80
        assert (min(result.shape[1:]) == 80) == (pad or shape == (64, 64))


@pytest.mark.parametrize(("count", "most", "kept"), [(10, 20, 10), (10, 10, 10), (11, 10, 6), (100, 16, 15), (7, 1, 1)])
def test_thinning_keeps_every_nth_slice_centred_and_says_which(count: int, most: int, kept: int) -> None:
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.5, 1.0], dtype=torch.float64))
    volume = MetaTensor(torch.arange(float(count)).expand(1, 2, 2, count), affine=affine)
    sample = ThinSlicesd("image", most)({"image": volume})
    index = sample["slice_index"]
    assert len(index) == sample["image"].shape[-1]
    assert kept - 1 <= len(index) <= min(kept, most)
    assert torch.equal(sample["image"][0, 0, 0].as_tensor(), index.float())
    assert abs(int(index[0]) - (count - 1 - int(index[-1]))) <= 1
    k = len(index) - 1
    assert float((sample["image"].affine @ torch.tensor([0.0, 0, k, 1]).double())[2]) == 2.5 * int(index[k])


def test_options_crop_choose_a_channel_a_frame_and_a_spacing(tmp_path: Path) -> None:
    array = np.zeros((20, 20, 10, 2), np.float32)
    array[5:15, 8:12, :, 1] = 1
    nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1.0])), tmp_path / "v.nii")
    row = {"image": str(tmp_path / "v.nii")}
    cropped = volume_preprocessing(size=20, frame=1, crop_foreground=True, percentiles=(0, 100))(row)["image"]
    assert float((cropped > 0.5).float().mean()) == pytest.approx(0.4, abs=0.05)  # 10 x 4 in a square
    row["frame"] = 0  # the row's own frame wins
    assert volume_preprocessing(size=20, frame=1)(row)["image"].abs().sum() == 0
    finer = volume_preprocessing(size=20, spacing=(-1, -1, 1.0))({**row, "frame": 1})["image"]
    assert finer.shape[-1] in (19, 20)
    assert float(finer.affine[:3, 2].norm()) == pytest.approx(1.0)
    two = {"image": torch.stack([torch.zeros(3, 3), torch.ones(3, 3)])}
    assert torch.equal(SelectChanneld("image", 1)(two)["image"], torch.ones(1, 3, 3))
    with pytest.raises(ValueError, match=r"0\.\.1, got 5"):
        SelectChanneld("image", 5)(two)


def test_a_picture_keeps_its_aspect_and_lies_in_zero_to_one(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 65535, (30, 60)).astype(np.uint16)).save(tmp_path / "a.png")
    row = {"image": str(tmp_path / "a.png")}
    image = image_preprocessing(size=32)(row)["image"]
    assert tuple(image.shape) == (1, 16, 32)
    assert 0 <= float(image.min()) < float(image.mean()) < float(image.max()) <= 1
    assert float(image.mean()) == pytest.approx(0.5, abs=0.05)  # of uniform noise
    assert tuple(image_preprocessing(size=32, pad=True)(row)["image"].shape) == (1, 32, 32)
    assert tuple(image_preprocessing(size=None)(row)["image"].shape) == (1, 30, 60)


def test_wrong_arguments_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="plane must be one of"):
        volume_preprocessing(plane="oblique")
    with pytest.raises(ValueError, match="kind must be"):
        LoadSampled("image", "slice")
    with pytest.raises(ValueError, match="size must be at least 1"):
        FitInPlaned("image", 0)
    with pytest.raises(ValueError, match="max_slices must be at least 1"):
        ThinSlicesd("image", 0)


@pytest.mark.shared_data
def test_real_heads_stand_upright_and_undistorted(shared_data: Path) -> None:
    rows = load_datalist(shared_data / "unlabeled_volumes/datalist.json").volumes
    heads = [row for row in rows if "mslong" in row["image"]][:2]
    for row in heads:
        volume = volume_preprocessing(size=64, upright=True, max_slices=32)(row)["image"]
        head = volume[0].numpy().mean(2) > 0.08
        rows_covered, columns = np.flatnonzero(head.any(1)), np.flatnonzero(head.any(0))
        assert 1.05 < len(rows_covered) / len(columns) < 1.6  # a head is longer from front to back
        heights = np.sort((volume.affine.numpy() @ [0, 0, volume.shape[-1] - 1, 1])[:3])
        assert np.isfinite(heights).all()
        spacing = volume.affine[:3, :3].norm(dim=0)
        assert float(spacing[0]) == pytest.approx(float(spacing[1]), rel=0.03)
