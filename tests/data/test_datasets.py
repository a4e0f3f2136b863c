# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Datasets of rows, slices and both streams."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandGaussianNoised

from monai_cluster.data import ClusterImageDataset, JointDataset, SliceDataset, VolumeDataset, volume_preprocessing
from monai_cluster.data.joint_dataset import derive_seed
from monai_cluster.transforms import image_views, volume_views


class Make:
    """Stands in for the preprocessing: slice k of volume v is constant v + k / 100; an image is constant v."""

    def __init__(self, slices: tuple[int, ...] | None) -> None:
        self.slices = slices
        self.calls = 0

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        v = int(row["image"])
        if self.slices is None:
            return {**row, "image": MetaTensor(torch.full((1, 20, 20), float(v)))}
        count = self.slices[v % len(self.slices)]
        values = v + torch.arange(count) / 100.0
        return {**row, "image": MetaTensor(values.expand(1, 12, 12, count).clone(), affine=torch.eye(4))}


def rows(count: int, first: int) -> list[dict[str, Any]]:
    return [{"image": str(i), "sample_index": first + i} for i in range(count)]


def joint(slices: tuple[int, ...] = (10, 7), cache_rate: float = 0.0, **options: Any) -> JointDataset:
    volumes = VolumeDataset(rows(3, 0), Make(slices), cache_rate=cache_rate)
    images = ClusterImageDataset(rows(5, 3), Make(None), cache_rate=cache_rate)
    return JointDataset(images, volumes, image_views(8, 4, 2, 1), volume_views(4), **options)


def views(sample: dict[str, Any]) -> list[torch.Tensor]:
    return [*sample["views"], *sample.get("slice_position", [])]


def test_slices_are_the_middles_of_equal_strata_and_follow_all_other_indices() -> None:
    volumes = VolumeDataset(rows(2, 0), Make((10, 7)))
    slices = SliceDataset(volumes, 3, first_index=9)
    for index in range(6):
        v, j = divmod(index, 3)
        count = (10, 7)[v]
        sample = slices[index]
        expected = int((j + 0.5) / 3 * count)
        assert sample["slice_index"] == expected
        assert torch.allclose(sample["image"].as_tensor(), torch.tensor(v + expected / 100))
        assert sample["image"].shape == (1, 12, 12)
        assert sample["sample_index"] == 9 + index
        assert sample["group"] == v
    with pytest.raises(IndexError, match="slice 6 of 6"):
        slices[6]


def test_a_jittered_slice_stays_in_its_stratum_and_moves_from_epoch_to_epoch() -> None:
    volumes = VolumeDataset(rows(1, 0), Make((40,)))
    data = JointDataset(None, volumes, lambda d: {**d, "views": [d["image"]]}, volume_views(4), 0, 4, slice_jitter=True)
    seen: dict[int, set[int]] = {j: set() for j in range(4)}
    for epoch in range(30):
        for j in range(4):
            index = data["images", epoch, j]["slice_index"]
            assert index == data["images", epoch, j]["slice_index"]
            assert 10 * j <= index < 10 * (j + 1)
            seen[j].add(index)
    assert all(len(chosen) > 5 for chosen in seen.values())


def test_indices_are_global_and_groups_join_the_slices_of_a_volume() -> None:
    data = joint(slices_per_volume=2)
    assert (data.num_volumes, data.num_images, len(data), data.num_samples) == (3, 11, 14, 14)
    assert [data["volumes", 0, i]["sample_index"] for i in range(3)] == [0, 1, 2]
    assert [data["images", 0, i]["sample_index"] for i in range(11)] == list(range(3, 14))
    assert [data.sample_index("images", i) for i in range(11)] == list(range(3, 14))
    assert data.groups[5:] == [0, 0, 1, 1, 2, 2]
    assert len(set(data.groups[:5])) == 5
    with pytest.raises(IndexError, match="no item"):
        joint().sample_index("images", 5)


@pytest.mark.parametrize("stream", ["images", "volumes"])
def test_augmentation_depends_on_seed_epoch_and_sample_alone(stream: str) -> None:
    data, other = joint(slices_per_volume=2, seed=4), joint(slices_per_volume=2, seed=4, cache_rate=1.0)
    reference = data[stream, 2, 1]
    for stray in (("images", 0, 0), ("volumes", 5, 2), (stream, 2, 0)):
        data[stray]
    for again in (data[stream, 2, 1], other[stream, 2, 1]):
        assert all(torch.equal(a, b) for a, b in zip(views(reference), views(again), strict=True))
    draws = [data[stream, epoch, 1] for epoch in range(6)] + [joint(slices_per_volume=2, seed=5)[stream, 2, 1]]
    assert sum(not torch.equal(a["views"][0], b["views"][0]) for a, b in itertools.pairwise(draws)) >= 5


def test_cached_volumes_are_made_once_and_left_unchanged() -> None:
    make = Make((10,))
    volumes = VolumeDataset(rows(3, 0), make, cache_rate=1.0)
    assert make.calls == 3
    before = [volumes[i]["image"].as_tensor().clone() for i in range(3)]
    data = JointDataset(None, volumes, None, volume_views(6, match_slices=False))
    for epoch in range(8):
        for i in range(3):
            data["volumes", epoch, i]
    assert make.calls == 3
    assert all(torch.equal(volumes[i]["image"].as_tensor(), before[i]) for i in range(3))


def test_seeds_of_neighbours_differ_and_fit_numpy() -> None:
    seeds = {derive_seed(0, epoch, index) for epoch in range(50) for index in range(50)}
    assert len(seeds) == 2500
    assert max(seeds) < 2**32
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_a_sample_that_cannot_be_loaded_is_named_with_its_cause(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), np.nan, np.float32), np.eye(4)), tmp_path / "bad.nii.gz")
    bad = [{"image": str(tmp_path / "bad.nii.gz"), "sample_index": 7}]
    with pytest.raises(
        RuntimeError, match=r"volume of sample_index 7 \(bad\.nii\.gz\) cannot be loaded: ValueError: .*finite"
    ):
        VolumeDataset(bad, volume_preprocessing(16))[0]
    with pytest.raises(RuntimeError, match=r"bad\.nii\.gz"):
        VolumeDataset(bad, volume_preprocessing(16), cache_rate=1.0)[0]


def test_a_sample_that_cannot_be_augmented_is_named_with_its_cause() -> None:
    def boom(sample: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("boom")

    data = JointDataset(None, VolumeDataset(rows(1, 0), Make((3,))), None, boom)
    with pytest.raises(RuntimeError, match="sample_index 0 of volumes cannot be augmented: boom"):
        data["volumes", 0, 0]


def test_wrong_arguments_are_refused_with_the_fix() -> None:
    volumes = VolumeDataset(rows(2, 0), Make((4,)))
    with pytest.raises(ValueError, match="must be deterministic, got RandGaussianNoised"):
        VolumeDataset(rows(1, 0), Compose([Make((4,)), Compose([RandGaussianNoised("image")])]))
    with pytest.raises(ValueError, match="row 0 has none; make rows with load_datalist"):
        ClusterImageDataset([{"image": "0"}], Make(None))
    with pytest.raises(ValueError, match=r"cache_rate must lie in 0\.\.1"):
        VolumeDataset(rows(1, 0), Make((4,)), cache_rate=2)
    with pytest.raises(ValueError, match="slices_per_volume must be at least 1"):
        SliceDataset(volumes, 0)
    with pytest.raises(ValueError, match="needs images or volumes"):
        JointDataset(None, None)
    with pytest.raises(ValueError, match="there are no volumes"):
        JointDataset(ClusterImageDataset(rows(1, 0), Make(None)), None, image_views(8), slices_per_volume=2)
    with pytest.raises(ValueError, match="needs an image_transform"):
        JointDataset(ClusterImageDataset(rows(1, 0), Make(None)))
    with pytest.raises(ValueError, match="needs a volume_transform"):
        JointDataset(None, volumes)
