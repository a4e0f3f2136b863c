# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Labelled samples: even draws, augmentation that no worker changes, classes and their numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import RandGaussianNoised
from PIL import Image

from monai_cluster.data import (
    AugmentedDataset,
    DrawSampler,
    FinetuneLoader,
    LabelledDataset,
    SampleLoader,
    class_names,
    class_weights,
    collate_labelled,
    load_datalist,
    number_classes,
)


def rows(number: int) -> list[dict[str, object]]:
    return [{"sample_index": index, "image": f"{index}.png", "label": index % 2} for index in range(number)]


def constant(row: dict[str, object]) -> dict[str, object]:
    return {**row, "image": torch.full((1, 4, 4), float(row["sample_index"]))}  # type: ignore[arg-type]


def noisy(number: int = 5, seed: int = 0) -> AugmentedDataset:
    return AugmentedDataset(LabelledDataset(rows(number), constant), RandGaussianNoised("image", prob=1.0), seed)


def test_every_row_is_drawn_equally_often_across_the_ends_of_epochs() -> None:
    sampler = DrawSampler(num_rows=7, num_draws=10, seed=3)
    drawn: Counter[int] = Counter()
    for epoch in range(1, 8):
        sampler.set_epoch(epoch)
        drawn.update(row for _, row in sampler)
    assert set(drawn.values()) == {10}


def test_an_epoch_draws_the_same_after_a_resume_and_other_rows_than_the_one_before() -> None:
    first, resumed = DrawSampler(50, 20, 1), DrawSampler(50, 20, 1)
    first.set_epoch(1)
    one = list(first)
    first.set_epoch(2)
    two = list(first)
    resumed.set_epoch(2)
    assert list(resumed) == two
    assert not {row for _, row in one} & {row for _, row in two}


def test_no_number_of_workers_changes_a_batch() -> None:
    batches = []
    for workers in (0, 2):
        loader = FinetuneLoader(noisy(), batch_size=3, num_batches=4, seed=2, num_workers=workers)
        loader.set_epoch(5)
        batches.append(torch.cat([batch["image"] for batch in loader]))
    assert torch.equal(*batches)
    again = FinetuneLoader(noisy(seed=1), batch_size=3, num_batches=4, seed=2)
    again.set_epoch(5)
    assert not torch.equal(batches[0], torch.cat([batch["image"] for batch in again]))


def _draws(rank: int) -> list[tuple[int, int]]:
    return list(DrawSampler(6, 12, 0))


def test_two_ranks_share_the_draws_of_one(gloo_pair) -> None:
    halves = gloo_pair(_draws)
    assert sorted(halves[0] + halves[1]) == sorted(DrawSampler(6, 12, 0))


def test_boxes_stay_a_list_and_labels_become_a_vector() -> None:
    samples = [
        {"image": torch.zeros(1, 2, 2), "label": 1, "box": torch.zeros(n, 4), "box_label": torch.zeros(n), "name": "x"}
        for n in (0, 3)
    ]
    batch = collate_labelled(samples)
    assert [len(box) for box in batch["box"]] == [0, 3]
    assert batch["label"].tolist() == [1, 1]
    assert batch["name"] == ["x", "x"]


def test_images_of_two_sizes_are_no_batch() -> None:
    with pytest.raises(ValueError, match="images of one batch must have one size"):
        collate_labelled([{"image": torch.zeros(1, 2, 2)}, {"image": torch.zeros(1, 3, 2)}])


def test_samples_come_one_by_one_in_order() -> None:
    found = [batch[0]["sample_index"] for batch in SampleLoader(LabelledDataset(rows(4), constant))]
    assert found == [0, 1, 2, 3]


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="num_rows and num_draws"):
        DrawSampler(0, 5)
    with pytest.raises(ValueError, match="batch_size and num_batches"):
        FinetuneLoader(noisy(), 0, 1)


def test_a_failing_augmentation_names_the_sample() -> None:
    def fail(sample: object) -> object:
        raise ArithmeticError("too bright")

    dataset = AugmentedDataset(LabelledDataset(rows(2), constant), fail)
    with pytest.raises(RuntimeError, match="sample_index 1 cannot be augmented: too bright"):
        dataset[(0, 1)]


def test_class_names_come_from_the_list_the_maps_and_the_rows(tmp_path: Path) -> None:
    for index, highest in enumerate((1, 3)):
        Image.fromarray(np.full((4, 4), highest, np.uint8)).save(tmp_path / f"label{index}.png")
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{index}.png")
    listed = [
        {
            "image": f"{index}.png",
            "label": f"label{index}.png",
            "class": name,
            "box": [[0, 0, 1, 1]],
            "box_label": [index],
        }
        for index, name in enumerate(("10", "9"))
    ]
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"labels": {"0": "background", "2": "liver"}, "training": listed}))
    found = load_datalist(path, require=("label",), paths=("label",)).rows
    assert class_names("segmentation", found, path) == ["background", "class 1", "liver", "class 3"]
    assert class_names("detection", found, path) == ["class 0", "class 1"]
    assert class_names("classification", found, path, "class") == ["9", "10"]
    numbered = number_classes(found, ["9", "10"], "class")
    assert [row["label"] for row in numbered] == [1, 0]
    with pytest.raises(ValueError, match="some rows have 10"):
        number_classes(found, ["9", "8"], "class")
    with pytest.raises(ValueError, match="needs the column 'grade'"):
        class_names("classification", found, path, "grade")
    with pytest.raises(ValueError, match="needs at least 2 classes"):
        class_names("classification", found[:1], path, "class")


def test_class_weights_make_classes_count_alike() -> None:
    weights = class_weights([{"label": 0}] * 9 + [{"label": 1}], 2)
    assert (weights * torch.tensor([9.0, 1.0])).tolist() == pytest.approx([5.0, 5.0])


def test_label_paths_are_resolved_beside_the_images_and_must_exist(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [{"image": "a.png", "label": "a.png"}]}))
    assert load_datalist(path, paths=("label",)).rows[0]["label"] == str(tmp_path / "a.png")
    path.write_text(json.dumps({"training": [{"image": "a.png", "label": "b.png"}]}))
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        load_datalist(path, paths=("label",))
    path.write_text(json.dumps({"training": [{"image": "a.png", "label": 3}]}))
    with pytest.raises(ValueError, match="'label' must be a path here, got 3"):
        load_datalist(path, paths=("label",))


def test_only_rows_of_the_wanted_kind_are_taken_and_need_the_columns(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).to_filename(tmp_path / "v.nii.gz")
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [{"image": "v.nii.gz"}, {"image": "a.png", "label": 1}]}))
    found = load_datalist(path, kind="image", require=("label",))
    assert [row["label"] for row in found.images] == [1]
    assert found.volumes == []
    assert found.names == ["a.png"]
    with pytest.raises(ValueError, match="needs the column 'label'"):
        load_datalist(path, kind="volume", require=("label",))
    path.write_text(json.dumps({"training": [{"image": "a.png"}]}))
    with pytest.raises(ValueError, match="volumes are wanted, but all 1 rows"):
        load_datalist(path, kind="volume")
