# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Predictions on the file's own grid: oblique, anisotropic, turned and resampled volumes come back where they were."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch

from monai_cluster.data import LabelledDataset, class_ids_on_source_grid, labelled_preprocessing, to_source_grid


def oblique(spacing: tuple[float, float, float], angles: tuple[float, float]) -> np.ndarray:
    """An affine with rotations about two axes."""
    a, b = angles
    one = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    two = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = one @ two @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 17.0, 240.0)
    return affine


def write(folder, affine: np.ndarray, code: str | None = None) -> dict[str, str]:
    """A blob off centre in an image of odd sizes, and its mask, stored in any orientation code."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (23, 30, 11)], indexing="ij"), axis=-1)
    mask = (((grid - (8, 19, 4)) / (5, 7, 3)) ** 2).sum(-1) < 1
    for name, values in (("image", mask * 100.0 + grid.sum(-1)), ("label", mask.astype(np.uint8))):
        made = nib.Nifti1Image(values, affine)
        if code is not None:
            now = nib.orientations.io_orientation(affine)
            made = made.as_reoriented(nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(code)))
        made.to_filename(folder / f"{name}.nii.gz")
    return {"image": str(folder / "image.nii.gz"), "label": str(folder / "label.nii.gz"), "sample_index": 0}


def one_hot(label: torch.Tensor) -> torch.Tensor:
    return torch.stack([label == 0, label == 1]).float()


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "SAL", "AIL"])
def test_a_label_turned_upright_comes_back_voxel_by_voxel(tmp_path, code: str) -> None:
    row = write(tmp_path, oblique((0.7, 0.9, 5.0), (0.2, 0.15)), code)
    sample = labelled_preprocessing("segmentation", 3, 2)(dict(row))
    back = class_ids_on_source_grid(
        one_hot(sample["label"][0].as_tensor()), sample["image"].affine, sample["source_affine"], sample["source_shape"]
    )
    stored = nib.load(row["label"])
    np.testing.assert_array_equal(back.numpy(), np.asarray(stored.dataobj))
    np.testing.assert_allclose(sample["source_affine"].numpy(), stored.affine, atol=1e-6)


@pytest.mark.parametrize("spacing", [(0.7, 0.9, 5.0), (0.5, 0.5, 2.5), (1.3, 1.3, 4.0)])
def test_a_resampled_label_comes_back_within_half_a_voxel_of_its_border(tmp_path, spacing) -> None:
    row = write(tmp_path, oblique((0.7, 0.9, 5.0), (0.2, 0.15)))
    sample = labelled_preprocessing("segmentation", 3, 2, spacing=spacing)(dict(row))
    back = class_ids_on_source_grid(
        one_hot(sample["label"][0].as_tensor()), sample["image"].affine, sample["source_affine"], sample["source_shape"]
    ).numpy()
    truth = np.asarray(nib.load(row["label"]).dataobj)
    centre = [np.argwhere(mask).mean(axis=0) for mask in (truth, back)]
    np.testing.assert_allclose(centre[0], centre[1], atol=0.35)
    assert 2 * (truth & back).sum() / (truth.sum() + back.sum()) > 0.85


def test_interpolation_agrees_with_monais_resampling_by_affines(tmp_path) -> None:
    row = write(tmp_path, oblique((0.7, 0.9, 5.0), (0.2, 0.15)))
    sample = labelled_preprocessing("segmentation", 3, 2, spacing=(1.1, 1.1, 3.0))(dict(row))
    image = sample["image"]
    ours = to_source_grid(image.as_tensor(), image.affine, sample["source_affine"], sample["source_shape"])
    target = MetaTensor(torch.zeros(1, *sample["source_shape"].tolist()), affine=sample["source_affine"])
    theirs = ResampleToMatch(mode="bilinear", padding_mode="border")(image, img_dst=target)
    torch.testing.assert_close(ours, theirs.as_tensor(), atol=2e-3, rtol=0)


def test_a_mirrored_and_a_shifted_label_are_refused(tmp_path) -> None:
    row = write(tmp_path, oblique((0.7, 0.9, 5.0), (0.2, 0.15)))
    stored = nib.load(row["label"])
    for change in (np.diag([-1.0, 1, 1, 1]), np.array([[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])):
        nib.Nifti1Image(np.asarray(stored.dataobj), stored.affine @ change).to_filename(row["label"])
        with pytest.raises(RuntimeError, match="image and label must lie on one grid") as failure:
            LabelledDataset([row], labelled_preprocessing("segmentation", 3, 2))[0]
        assert "mm apart" in str(failure.value)


def test_labels_of_another_shape_unknown_ids_and_probabilities_are_refused(tmp_path) -> None:
    row = write(tmp_path, np.diag([1.0, 1, 2, 1]))
    label = np.asarray(nib.load(row["label"]).dataobj)
    for values, message in (
        (label[:-1], "must have the image's shape"),
        (label * 3, "must lie below 2"),
        (label * 0.5, "class ids 0, 1, 2"),
    ):
        nib.Nifti1Image(values, np.diag([1.0, 1, 2, 1])).to_filename(row["label"])
        with pytest.raises(RuntimeError, match=message):
            LabelledDataset([row], labelled_preprocessing("segmentation", 3, 2))[0]


def test_a_picture_resized_and_padded_comes_back() -> None:
    from monai_cluster.data import FitInPlaned

    mask = torch.zeros(1, 40, 31)
    mask[:, 5:18, 9:27] = 1
    affine = torch.tensor([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    fitted = FitInPlaned("label", 80, mode="nearest-exact")({"label": MetaTensor(mask, affine=affine)})["label"]
    back = class_ids_on_source_grid(one_hot(fitted[0].as_tensor()), fitted.affine, affine, (40, 31))
    assert torch.equal(back.float(), mask[0])


def test_settings_that_cannot_be_undone_are_refused() -> None:
    with pytest.raises(ValueError, match="task must be"):
        labelled_preprocessing("registration")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3"):
        labelled_preprocessing("segmentation", 4)
    with pytest.raises(ValueError, match="belong to volumes"):
        labelled_preprocessing("segmentation", 2, spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="would interpolate class ids"):
        labelled_preprocessing("segmentation", 3, num_slices=4)
