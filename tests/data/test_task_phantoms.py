# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Phantoms with labels: image, label map and boxes agree on every stored grid, and lesions can be seen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from monai_cluster.data import load_datalist, write_task_phantoms
from monai_cluster.data.label_classes import class_names
from monai_cluster.data.labelled_samples import labelled_preprocessing
from monai_cluster.data.phantom_lesions import instance_boxes, place_lesions
from monai_cluster.data.task_phantoms import LESION_RANGE, LESIONS, ORGANS, TaskPhantom, draw_task_phantom

SEED = 2
SPLITS = ("training", "validation", "test")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that the tests of this file only read; as many volumes as meet every orientation code."""
    return write_task_phantoms(tmp_path_factory.mktemp("labelled"), 16, 12, size=48, seed=SEED)


def rows_of(datalist: Path, kind: str, split: str | None = None) -> list[dict[str, Any]]:
    document = json.loads(datalist.read_text())
    return [row for name in SPLITS for row in document[name] if row["kind"] == kind and split in (None, name)]


def drawn(row: dict[str, Any], size: int = 48, seed: int = SEED) -> TaskPhantom:
    """The row's subject again, still on its right-front-head grid and with its lesions voxel by voxel."""
    return draw_task_phantom(row["kind"], int(row["subject"][-3:]), size, seed)[0]


def stored_places(phantom: TaskPhantom, mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Indices ``N 3`` in the stored array of the voxels of a mask, by way of millimetres: no axis is turned here."""
    millimetres = np.argwhere(mask) * phantom.spacing + np.array(phantom.origin)
    return np.round((millimetres - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_seed_gives_the_same_bytes_and_another_seed_other_images(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        write_task_phantoms(tmp_path / name, 2, 2, size=32, seed=seed)
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert set(one) == set(other)
    assert len(one) == 1 + 4 * 2
    assert not any(one[name] == other[name] for name in one)


def test_more_phantoms_keep_those_of_a_smaller_set(tmp_path: Path) -> None:
    write_task_phantoms(tmp_path / "few", 2, 2, size=32)
    write_task_phantoms(tmp_path / "many", 4, 5, size=32)
    few, many = digests(tmp_path / "few"), digests(tmp_path / "many")
    few.pop("datalist.json")
    assert few == {name: many[name] for name in few}


def test_boxes_of_volumes_hug_the_lesions_in_the_stored_array(phantoms: Path) -> None:
    codes, found = set(), 0
    for row in rows_of(phantoms, "volume"):
        image, phantom = nib.load(phantoms.parent / row["image"]), drawn(row)
        codes.add("".join(nib.aff2axcodes(image.affine)))
        assert len(row["box"]) == len(row["box_label"]) == phantom.lesions.max()
        for number, box in enumerate(row["box"], start=1):
            places = stored_places(phantom, phantom.lesions == number, image.affine)
            assert box == [*places.min(axis=0), *(places.max(axis=0) + 1)]
            assert min(box) >= 0
            assert all(end <= length for end, length in zip(box[3:], image.shape, strict=True))
            found += 1
    assert codes == {"RAS", "LPS", "LAI", "PLS", "SPL", "RSA"}
    assert found >= 8


def test_image_and_label_map_of_a_volume_hold_what_was_drawn_at_the_same_millimetres(phantoms: Path) -> None:
    for row in rows_of(phantoms, "volume"):
        image, label = (nib.load(phantoms.parent / row[key]) for key in ("image", "label"))
        phantom = drawn(row)
        assert np.array_equal(image.affine, label.affine)
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        where = tuple(stored_places(phantom, np.ones_like(phantom.organs, bool), image.affine).T)
        assert np.array_equal(np.asarray(label.dataobj)[where], phantom.organs.ravel())
        assert np.array_equal(np.asarray(image.dataobj)[where], np.round(phantom.pixels).ravel())
        spacing = sorted(nib.affines.voxel_sizes(image.affine))
        assert spacing[2] > 1.2 * spacing[1]
        assert spacing[1] == pytest.approx(spacing[0])


def test_boxes_of_images_hug_the_lesions_column_first(phantoms: Path) -> None:
    found = 0
    for row in rows_of(phantoms, "image"):
        phantom = drawn(row)
        width, height = phantom.organs.shape[:2]
        with Image.open(phantoms.parent / row["label"]) as picture:
            assert picture.size == (width, height)
            assert picture.mode == "L"
            label = np.asarray(picture)
        for number, box in enumerate(row["box"], start=1):
            # Index 0 counts to the patient's right, which is the screen's left; index 1 to the front, which is its top.
            right, front, _ = np.argwhere(phantom.lesions == number).T
            x, y = width - 1 - right, height - 1 - front
            assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert (label[y, x] == 1).all()
            found += 1
    assert found >= 6


def test_pictures_show_the_organs_where_their_label_map_says(phantoms: Path) -> None:
    for row in rows_of(phantoms, "image"):
        phantom = drawn(row)
        pixels, label = (np.asarray(Image.open(phantoms.parent / row[key])).astype(float) for key in ("image", "label"))
        front_up = np.fliplr(np.rot90(phantom.pixels[..., 0]))
        assert np.corrcoef(front_up.ravel(), pixels.ravel())[0, 1] > 0.99
        liver = np.argwhere(label == 1)[:, 1].mean()
        spleen = np.argwhere(label == 2)[:, 1]
        assert liver < (label.shape[1] - 1) / 2  # the patient's right on the left of the screen
        assert len(spleen) == 0 or spleen.mean() > liver


@pytest.mark.parametrize(("kind", "dims"), [("volume", 3), ("image", 2)])
def test_the_pipeline_finds_lesions_bright_or_dark_inside_its_boxes(phantoms: Path, kind: str, dims: int) -> None:
    load = labelled_preprocessing("detection", spatial_dims=dims, window="soft")
    segment = labelled_preprocessing("segmentation", spatial_dims=dims, num_classes=4)
    compared = 0
    for split in SPLITS:
        rows = load_datalist(phantoms, split=split, require=("label", "box"), paths=("label",))
        for row in rows.volumes if kind == "volume" else rows.images:
            sample = load(row)
            image, liver = sample["image"].as_tensor()[0], segment(row)["label"].as_tensor()[0] == 1
            lesions = [tuple(slice(int(a), int(b)) for a, b in box.reshape(2, dims).T) for box in sample["box"]]
            healthy = liver.clone()
            for lesion in lesions:
                assert liver[lesion].float().mean() > 0.9
                healthy[lesion] = False
            for lesion, label in zip(lesions, sample["box_label"], strict=True):
                # The middle third of the box: its corners are liver.
                core = image[tuple(slice((2 * a.start + a.stop) // 3, -(-(a.start + 2 * a.stop) // 3)) for a in lesion)]
                difference = float(core.mean() - image[healthy].mean())
                assert (difference < 0) == bool(label)
                compared += 1
    assert compared >= 6


def test_lesions_differ_from_the_liver_round_them_by_more_than_its_spread() -> None:
    contrasts, labels = [], []
    for kind, index in [(kind, index) for kind in ("volume", "image") for index in range(0, 24, 2)]:
        phantom, _ = draw_task_phantom(kind, index, 64, 0)
        top = LESION_RANGE[phantom.modality][1]
        pixels = np.clip(phantom.pixels, None, top)
        for number, label in enumerate(phantom.lesion_labels, start=1):
            lesion = phantom.lesions == number
            around = ndimage.binary_dilation(lesion, iterations=3) & (phantom.organs == 1) & (phantom.lesions == 0)
            difference = (pixels[lesion].mean() - pixels[around].mean()) / pixels[around].std()
            contrasts.append(-difference if label else difference)
            labels.append(label)
    assert len(contrasts) > 40
    assert min(contrasts) > 0.7
    assert np.median(contrasts) > 2.5
    assert 0.25 < np.mean(labels) < 0.75  # both kinds occur often


def test_every_second_subject_is_healthy_and_says_so(phantoms: Path) -> None:
    for kind in ("volume", "image"):
        for row in rows_of(phantoms, kind):
            healthy = int(row["subject"][-3:]) % 2 == 1
            assert row["class"] == ("healthy" if healthy else "lesion")
            assert (row["box"] == []) == healthy
            assert len(row["box"]) <= 4


def test_the_default_set_has_both_classes_and_all_organs_in_every_split(tmp_path: Path) -> None:
    datalist = write_task_phantoms(tmp_path)
    document = json.loads(datalist.read_text())
    for kind, expected in (("volume", [6, 2, 4]), ("image", [8, 3, 5])):
        assert [sum(row["kind"] == kind for row in document[name]) for name in SPLITS] == expected
    subjects = [row["subject"] for name in SPLITS for row in document[name]]
    assert len(set(subjects)) == len(subjects) == 28
    for name in SPLITS:
        rows = load_datalist(datalist, split=name, paths=("label",))
        for part in (rows.volumes, rows.images):
            assert class_names("classification", part, datalist, "class") == ["healthy", "lesion"]
        seen = [set(np.unique(np.asarray(nib.load(row["label"]).dataobj))) for row in rows.volumes]
        assert all(ids == {0, 1, 2, 3} for ids in seen)


def test_the_head_of_the_list_names_the_classes(phantoms: Path) -> None:
    rows = load_datalist(phantoms, paths=("label",)).rows
    assert class_names("segmentation", rows, phantoms) == ["background", *ORGANS]
    assert class_names("detection", rows, phantoms) == list(LESIONS)


def test_shares_of_splits_leave_one_subject_to_train_on(tmp_path: Path) -> None:
    cases = {(1, 0.5, 0.4): [1, 0, 0], (2, 0.5, 0.4): [1, 0, 1], (3, 0.6, 0.35): [1, 0, 2], (10, 0.3, 0.2): [5, 2, 3]}
    for number, ((volumes, test, validation), expected) in enumerate(cases.items()):
        datalist = write_task_phantoms(tmp_path / str(number), volumes, 0, 32, 0, test, validation)
        assert [len(rows_of(datalist, "volume", split)) for split in SPLITS] == expected


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), slices=st.sampled_from([1, 8]), number=st.integers(1, 5))
def test_placed_lesions_are_whole_apart_and_inside_their_organ(seed: int, slices: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    organ = np.zeros((40, 36, slices), bool)
    organ[5:38, 0:30] = True  # touches the border, where no lesion may be cut
    instances = place_lesions(organ, (6.0, 6.0, 12.0), number, rng)
    assert 1 <= instances.max() <= number
    assert not instances[~organ].any()
    assert not instances[:, 0].any()
    for one in range(1, int(instances.max()) + 1):
        lesion = instances == one
        assert ndimage.label(lesion)[1] == 1
        around = ndimage.binary_dilation(lesion, np.ones((3, 3, 3))) & ~lesion
        assert not instances[around].any()
        widths = [int(lesion.any(axis=tuple({0, 1, 2} - {axis})).sum()) for axis in (0, 1)]
        assert all(2 <= width <= 8 for width in widths)  # 2 * 1.6 and 2 * 18 * 1.25 / 6 voxels, cut by the grid


def test_an_organ_without_room_gets_no_lesion() -> None:
    rng = np.random.default_rng(0)
    assert not place_lesions(np.zeros((20, 20, 4), bool), (5, 5, 10), 2, rng).any()
    thin = np.zeros((20, 20, 4), bool)
    thin[:, 10] = True
    assert not place_lesions(thin, (5, 5, 10), 2, rng).any()


def test_boxes_are_half_open_in_the_order_of_the_axes() -> None:
    instances = np.zeros((6, 5, 4), np.uint8)
    instances[1:3, 2, 0:4] = 2
    instances[5, 4, 3] = 1
    assert instance_boxes(instances) == [[5, 4, 3, 6, 5, 4], [1, 2, 0, 3, 3, 4]]
    assert instance_boxes(np.zeros((3, 3), np.uint8)) == []


def test_phantoms_of_either_kind_differ_at_one_seed_and_index() -> None:
    volume, image = (draw_task_phantom(kind, 0, 32, 0)[0] for kind in ("volume", "image"))
    assert volume.origin != image.origin
    assert image.pixels.shape[2] == 1 < volume.pixels.shape[2]


def test_the_same_call_reuses_a_folder_and_another_is_refused(tmp_path: Path) -> None:
    datalist = write_task_phantoms(tmp_path, 1, 0, size=32)
    before = datalist.stat().st_mtime_ns
    assert write_task_phantoms(tmp_path, 1, 0, size=32) == datalist
    assert datalist.stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="not of these phantoms"):
        write_task_phantoms(tmp_path, 1, 0, size=32, seed=1)
    for content in ("not JSON", "[]"):
        datalist.write_text(content)
        with pytest.raises(FileExistsError, match="not of these phantoms"):
            write_task_phantoms(tmp_path, 1, 0, size=32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_volumes": 0, "num_images": 0}, "not both 0"),
        ({"num_images": -1}, "must be 0 or more"),
        ({"size": 16}, "size must be at least 32"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"test_share": 0.8}, "leave something to train on"),
        ({"validation_share": -0.1}, "leave something to train on"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_task_phantoms(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
