# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Datasets behind a slice store: the same samples to the bit, whole, by slice, by crop, through every loader."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, EnsureChannelFirstd, LoadImaged, Orientationd
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from monai_cluster.data import (
    AugmentedDataset,
    ClusterImageDataset,
    FinetuneLoader,
    JointDataset,
    JointLoader,
    LabelledDataset,
    SliceDataset,
    SliceStore,
    VolumeDataset,
    image_preprocessing,
    labelled_preprocessing,
    volume_preprocessing,
)
from monai_cluster.data.datasets import SampleError
from monai_cluster.data.store_description import DescriptionError
from monai_cluster.data.store_entry import StoredEntry
from monai_cluster.transforms import RandLabelledPatchd, image_views, volume_views

from .test_store_entry import same

Row = dict[str, Any]
AFFINE = np.array([[-0.9, 0.1, 0, 10], [0, 0.8, 0.05, -4], [0, 0, 2.5, 3], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes with label maps, and pictures, written a while ago."""
    folder, generator = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for number, slices in enumerate((9, 6, 12)):
        voxels = generator.integers(-1000, 1000, (20, 18, slices)).astype(np.int16)
        label = (voxels > 300).astype(np.uint8) + (voxels > 700)
        for name, values in (("volume", voxels), ("label", label)):
            nib.save(nib.Nifti1Image(values, AFFINE), folder / f"{name}{number}.nii.gz")
    for number in range(4):
        Image.fromarray(generator.integers(0, 255, (30, 26), dtype=np.uint8)).save(folder / f"{number}.png")
    for file in folder.iterdir():
        os.utime(file, (time.time() - 60, time.time() - 60))
    return folder


def volume_rows(files: Path, **columns: Any) -> list[Row]:
    return [
        {"image": str(files / f"volume{n}.nii.gz"), "modality": "CT", "subject": f"p{n}", "sample_index": n, **columns}
        for n in range(3)
    ]


def image_rows(files: Path) -> list[Row]:
    return [{"image": str(files / f"{n}.png"), "sample_index": 3 + n} for n in range(4)]


def labelled_rows(files: Path) -> list[Row]:
    return [row | {"label": str(files / f"label{n}.nii.gz")} for n, row in enumerate(volume_rows(files))]


def preprocess_volumes() -> Compose:
    return volume_preprocessing(16, upright=True, max_slices=8)


def plain_monai() -> Compose:
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            CropForegroundd("image", source_key="image", allow_smaller=True),
        ]
    )


def packed(sample: Row) -> Row:
    """MONAI's cache makes tensors contiguous; without it and with a store, they keep their strides."""
    return {key: value.contiguous() if isinstance(value, torch.Tensor) else value for key, value in sample.items()}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_sample_is_the_same_to_the_bit(files: Path, tmp_path: Path, workers: int) -> None:
    store = SliceStore(tmp_path / "store")
    cases: list[tuple[Any, list[Row], Any]] = [
        (VolumeDataset, volume_rows(files), preprocess_volumes()),
        (
            VolumeDataset,
            volume_rows(files, frame=""),
            volume_preprocessing(16, spacing=(1.5, 1.5, 3), crop_foreground=True),
        ),
        (VolumeDataset, volume_rows(files), plain_monai()),
        (ClusterImageDataset, image_rows(files), image_preprocessing(20)),
        (ClusterImageDataset, image_rows(files), image_preprocessing(None, crop_foreground=True)),
        (LabelledDataset, labelled_rows(files), labelled_preprocessing("segmentation", num_classes=3)),
        (LabelledDataset, volume_rows(files, label=1), labelled_preprocessing("classification", num_slices=5)),
        (
            LabelledDataset,
            volume_rows(files, box=[[1, 2, 1, 9, 9, 4]], box_label=[0]),
            labelled_preprocessing("detection", image_size=16),
        ),
    ]
    for kind, rows, preprocessing in cases:
        plain, cached = kind(rows, preprocessing), kind(rows, preprocessing, cache_rate=1.0)
        stored = kind(rows, preprocessing, cache_workers=workers, store=store)
        reopened = kind(rows, preprocessing, store=str(store.folder))
        for index in range(len(rows)):
            assert same(plain[index], stored[index])
            assert same(packed(cached[index]), packed(stored[index]))
            assert same(plain[index], reopened[index])
            assert list(plain[index]) == list(stored[index])


def test_slices_and_crops_are_the_same_and_only_they_are_read(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = VolumeDataset(volume_rows(files), preprocess_volumes())
    stored = VolumeDataset(volume_rows(files), preprocess_volumes(), store=tmp_path / "store")
    read: list[Any] = []
    look = StoredEntry._stored

    def noting(entry: StoredEntry, number: int, where: Any) -> torch.Tensor:
        found = look(entry, number, where)
        read.append(tuple(found.shape))
        return found

    monkeypatch.setattr(StoredEntry, "_stored", noting)
    slices = [SliceDataset(one, 3) for one in (plain, stored)]
    for index in range(len(slices[0])):
        for place in (0.0, 0.5, 0.99):
            assert same(slices[0].item(index, place), slices[1].item(index, place))
    assert read == [(1, 1, 16, 16)] * 27
    read.clear()
    part = stored.crop(2, (3, 4, 1), (5, 6, 2))
    assert read == [(2, 1, 5, 6)]
    assert same(part, plain.crop(2, (3, 4, 1), (5, 6, 2)))
    assert same(part.as_tensor(), plain[2]["image"].as_tensor()[:, 3:8, 4:10, 1:3].contiguous())
    corner = plain[2]["image"].affine @ torch.tensor([3.0, 4, 1, 1], dtype=torch.float64)
    assert torch.allclose(part.affine[:, 3], corner)
    for one in (plain, stored):
        with pytest.raises(ValueError, match="a crop must lie within"):
            one.crop(0, (0, 0, 0), (17, 1, 1))
        with pytest.raises(ValueError, match="slice 99 must lie in"):
            one.with_slice(0, lambda count: 99)
        assert same(plain.with_slice(0, lambda count: -1), one.with_slice(0, lambda count: -1))


def joint(files: Path, **options: Any) -> JointDataset:
    volumes = VolumeDataset(volume_rows(files), preprocess_volumes(), **options)
    images = ClusterImageDataset(image_rows(files), image_preprocessing(24), **options)
    return JointDataset(images, volumes, image_views(12, 8), volume_views(4), 5, 2, slice_jitter=True)


def joint_batches(files: Path, workers: int, **options: Any) -> list[Any]:
    loader = JointLoader(joint(files, **options), 4, 2, seed=1, num_workers=workers)
    batches = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        batches += list(loader)
    return batches


def test_the_joint_loader_gives_the_same_batches_with_any_workers(files: Path, tmp_path: Path) -> None:
    expected = joint_batches(files, 0)
    assert len(expected) > 3
    for workers in (0, 2):
        assert same(joint_batches(files, workers, store=tmp_path / "store"), expected)
    assert same(joint_batches(files, 0, cache_rate=1.0), expected)


def finetune_batches(files: Path, workers: int, **options: Any) -> list[Any]:
    samples = LabelledDataset(labelled_rows(files), labelled_preprocessing("segmentation", num_classes=3), **options)
    dataset = AugmentedDataset(samples, RandLabelledPatchd((8, 8, 4)), seed=2)
    loader = FinetuneLoader(dataset, 2, 4, seed=3, num_workers=workers)
    loader.set_epoch(2)
    return list(loader)


def test_the_finetune_loader_gives_the_same_batches_with_any_workers(files: Path, tmp_path: Path) -> None:
    expected = finetune_batches(files, 0)
    for workers in (0, 2):
        assert same(finetune_batches(files, workers, store=tmp_path / "store"), expected)


def first_image(batch: Any) -> torch.Tensor:
    found: torch.Tensor = batch["image"].as_tensor()
    return found


def test_a_spawned_worker_and_a_pickled_dataset_read_the_same(files: Path, tmp_path: Path) -> None:
    stored = VolumeDataset(volume_rows(files), preprocess_volumes(), store=tmp_path / "store")
    again = pickle.loads(pickle.dumps(stored))
    loader = DataLoader(stored, batch_size=None, num_workers=1, multiprocessing_context="spawn", collate_fn=first_image)
    for index, image in enumerate(loader):
        assert torch.equal(image, stored[index]["image"].as_tensor())
        assert same(again[index], stored[index])


def test_building_leaves_the_global_random_state_as_it_was(files: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    before = torch.get_rng_state()
    VolumeDataset(volume_rows(files), preprocess_volumes(), cache_workers=2, store=tmp_path / "store")
    assert torch.equal(torch.get_rng_state(), before)


class _Noting:
    order: ClassVar[list[str]] = []

    def __call__(self, row: Row) -> Row:
        self.order.append(row["image"])
        return {**row, "pixels": torch.zeros(1, 2, 2)}


def test_ranks_begin_at_different_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image": str(n), "sample_index": n} for n in range(6)]
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, expected in (("0", "012345"), ("2", "450123")):
        monkeypatch.setenv("RANK", rank)
        _Noting.order.clear()
        dataset = ClusterImageDataset(rows, _Noting(), store=tmp_path / rank)
        assert "".join(_Noting.order) == expected
        assert [dataset[index]["sample_index"] for index in range(6)] == list(range(6))


def damage(dataset: Any, index: int) -> None:
    file = dataset.stored.store.entries / dataset.stored.keys[index] / "0.npy"
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_entry_is_rebuilt_with_a_warning_that_names_no_file(
    files: Path, tmp_path: Path, workers: int, recwarn: pytest.WarningsRecorder
) -> None:
    plain = VolumeDataset(volume_rows(files), preprocess_volumes())
    VolumeDataset(volume_rows(files), preprocess_volumes(), store=tmp_path / "store")
    stored = VolumeDataset(volume_rows(files), preprocess_volumes(), store=tmp_path / "store")
    damage(stored, 1)
    loader = DataLoader(stored, batch_size=None, num_workers=workers, collate_fn=first_image)
    recwarn.clear()
    with_warnings = list(loader)
    for index, image in enumerate(with_warnings):
        assert torch.equal(image, plain[index]["image"].as_tensor())
    if workers == 0:
        (warning,) = [str(one.message) for one in recwarn if "slice store" in str(one.message)]
        assert "sample_index 1 is built anew: an array's checksum is not the one written" in warning
        assert str(files) not in warning
        assert "volume1" not in warning
    assert torch.equal(
        VolumeDataset(volume_rows(files), preprocess_volumes(), store=tmp_path / "store")[1]["image"], plain[1]["image"]
    )


def test_a_cut_or_removed_entry_is_rebuilt_at_the_next_start_or_read(files: Path, tmp_path: Path) -> None:
    plain = VolumeDataset(volume_rows(files), preprocess_volumes())
    stored = VolumeDataset(volume_rows(files), preprocess_volumes(), store=tmp_path / "store")
    assert stored.stored is not None
    keys, entries = stored.stored.keys, stored.stored.store.entries
    os.truncate(entries / keys[0] / "0.npy", 300)
    (entries / keys[1] / "entry.json").unlink()
    with pytest.warns(UserWarning, match=r"sample_index [01] is built anew") as said:
        again = VolumeDataset(volume_rows(files), preprocess_volumes(), cache_workers=2, store=tmp_path / "store")
    assert len(said) == 2
    assert all(same(again[index], plain[index]) for index in range(3))
    os.truncate(entries / keys[0] / "0.npy", 300)  # while it is in use
    with pytest.warns(UserWarning, match="sample_index 0 is built anew: an array's file has another length"):
        assert same(again[0], plain[0])
    again.stored.store.prune(remove=True)  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="sample_index 2 is built anew: it was removed"):
        assert same(again[2], plain[2])


def test_a_source_that_changed_since_the_start_is_not_stored_under_the_old_key(tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    values = np.random.default_rng(1).normal(size=(8, 8, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    rows = [{"image": str(path), "sample_index": 0}]
    stored = VolumeDataset(rows, preprocess_volumes(), store=tmp_path / "store")
    nib.save(nib.Nifti1Image(values[::-1], AFFINE), path)
    fresh = VolumeDataset(rows, preprocess_volumes(), store=tmp_path / "store")
    assert not torch.equal(fresh[0]["image"], stored[0]["image"])
    assert torch.equal(fresh[0]["image"], VolumeDataset(rows, preprocess_volumes())[0]["image"])
    stored.stored.store.prune(remove=True)  # type: ignore[union-attr]
    with (
        pytest.warns(UserWarning, match="it was removed"),
        pytest.raises(RuntimeError, match="sample_index 0 have changed since"),
    ):
        stored[0]


class _ByNumber:
    def __call__(self, row: Row) -> Row:
        return {**row, "image": MetaTensor(torch.full((1, 2, 2, 2), float(row["sample_index"])))}


class _Exact(Dataset[Row]):
    def __call__(self, row: Row) -> Row:
        return {"image": torch.zeros(1, 4, 4)}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sample_that_cannot_be_loaded_is_named_at_construction_and_the_others_stay(
    files: Path, tmp_path: Path, workers: int
) -> None:
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), np.nan, np.float32), np.eye(4)), tmp_path / "bad.nii.gz")
    rows = [*volume_rows(files), {"image": str(tmp_path / "bad.nii.gz"), "sample_index": 7}]
    with pytest.raises(SampleError, match=r"^volume of sample_index 7 \(bad\.nii\.gz\) cannot be loaded: ValueError"):
        VolumeDataset(rows, preprocess_volumes(), cache_workers=workers, store=tmp_path / "store")
    assert len(SliceStore(tmp_path / "store").prune()) == 3


def test_what_a_store_cannot_do_is_refused_with_the_fix(files: Path, tmp_path: Path) -> None:
    rows = volume_rows(files)
    with pytest.raises(ValueError, match=r"in memory or in a store, got cache_rate 0\.5 and a store"):
        VolumeDataset(rows, preprocess_volumes(), cache_rate=0.5, store=tmp_path / "store")
    with pytest.raises(DescriptionError, match="lambda"):
        VolumeDataset(rows, lambda row: row, store=tmp_path / "store")
    with pytest.raises(SampleError, match="UnstorableError: a preprocessing that reads 'sample_index' cannot use"):
        VolumeDataset(rows, _ByNumber(), store=tmp_path / "store")
    images = ClusterImageDataset(image_rows(files), _Exact(), store=tmp_path / "store")
    assert same(images[0], {"image": torch.zeros(1, 4, 4)})
    with pytest.raises(ValueError, match="slices and crops are read of volumes C H W S"):
        images.with_slice(0, lambda count: 0)


def test_two_starts_at_once_build_the_same_store(files: Path, tmp_path: Path) -> None:
    code = (
        "import sys, json\n"
        "from monai_cluster.data import VolumeDataset, volume_preprocessing\n"
        "rows = json.loads(sys.argv[1])\n"
        "d = VolumeDataset(rows, volume_preprocessing(16, upright=True, max_slices=8), store=sys.argv[2])\n"
        "print(float(sum(d[i]['image'].double().sum() for i in range(3))))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(volume_rows(files)), str(tmp_path / "store")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    plain = VolumeDataset(volume_rows(files), preprocess_volumes())
    expected = float(sum(plain[i]["image"].double().sum() for i in range(3)))
    assert [float(text) for text in printed] == [expected] * 2
    assert len(SliceStore(tmp_path / "store").prune()) == 3
