# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The phantoms: the same for a seed, geometrically right, hard for an untrained encoder and readable by a trained
eye."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from monai_cluster.data.phantom_anatomy import REGIONS, TISSUES, Part, paint
from monai_cluster.data.phantom_rendering import render_projection, render_volume
from monai_cluster.data.phantoms import PHANTOM_CLASSES, write_phantoms
from monai_cluster.metrics import knn_accuracy
from monai_cluster.networks import SliceEncoder


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set, shared by the tests of this file, which only read it."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), 4, 20, size=56)


def rows_of(datalist: Path, kind: str | None = None) -> list[dict[str, Any]]:
    document = json.loads(datalist.read_text())
    return [row for row in document["training"] + document["test"] if kind in (None, row["kind"])]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        write_phantoms(tmp_path / name, 1, 2, size=32, seed=seed)
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert set(one) == set(other)
    assert not any(one[name] == other[name] for name in one)


def test_more_phantoms_keep_those_of_a_smaller_set(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "few", 1, 2, size=32)
    write_phantoms(tmp_path / "many", 2, 4, size=32)
    few, many = digests(tmp_path / "few"), digests(tmp_path / "many")
    assert {name: many[name] for name in few if name != "datalist.json"} == {
        name: value for name, value in few.items() if name != "datalist.json"
    }


def test_every_class_has_the_asked_for_numbers_and_no_subject_is_in_both_splits(phantoms: Path) -> None:
    document = json.loads(phantoms.read_text())
    for label in PHANTOM_CLASSES:
        for kind, number in (("volume", 4), ("image", 20)):
            rows = [row for row in rows_of(phantoms, kind) if row["label"] == label]
            assert len(rows) == number
            assert all((phantoms.parent / row["image"]).is_file() for row in rows)
        held_out = [row for row in document["test"] if row["label"] == label]
        assert (len(held_out), sum(row["kind"] == "volume" for row in held_out)) == (7, 1)
    subjects = [{row["subject"] for row in document[split]} for split in ("training", "test")]
    assert not subjects[0] & subjects[1]


def test_volumes_vary_in_orientation_modality_slices_and_anisotropy(phantoms: Path) -> None:
    volumes = [(row, nib.load(phantoms.parent / row["image"])) for row in rows_of(phantoms, "volume")]
    assert len({nib.aff2axcodes(image.affine) for _, image in volumes}) >= 4
    counts = {image.shape[2] for _, image in volumes}
    assert {count % 2 for count in counts} == {0, 1}
    assert all(24 <= count <= 32 for count in counts)
    for row, image in volumes:
        pixels = np.asarray(image.dataobj)
        assert row["modality"] in ("CT", "MR")
        if row["modality"] == "CT":  # Hounsfield units: air around, bone inside
            assert -1100 < np.percentile(pixels, 1) < -850
            assert 300 < np.percentile(pixels, 99.9) < 3072
        else:
            assert pixels.min() >= 0
    thickness = [max(image.header.get_zooms()) / min(image.header.get_zooms()) for _, image in volumes]
    assert max(thickness) > 1.5
    assert {row["modality"] for row, _ in volumes} == {"CT", "MR"}


def test_the_liver_is_on_the_right_and_bone_is_bright_where_it_was_painted() -> None:
    parts = REGIONS["abdomen"].build(np.random.default_rng(0))
    found = render_volume(parts, REGIONS["abdomen"], "CT", (64, 64, 24), np.random.default_rng(1))
    x, y, z = (
        (found.origin[axis] + found.spacing[axis] * np.arange(found.pixels.shape[axis])).astype(np.float32)
        for axis in range(3)
    )
    labels = paint(parts, x[:, None, None], y[None, :, None], z[None, None])
    liver = labels == TISSUES.index("liver")
    assert liver[x > 0].sum() > 3 * liver[x < 0].sum()
    # A scan is turned by some degrees, so most but not all of the painted bone lies on bright voxels.
    bone, fat = (np.median(found.pixels[labels == TISSUES.index(tissue)]) for tissue in ("bone", "fat"))
    assert bone > fat + 100


def test_written_volumes_are_the_rendered_ones_in_every_orientation_code(tmp_path: Path) -> None:
    datalist = write_phantoms(tmp_path, 3, 0, size=32, seed=5)
    codes = set()
    for row in rows_of(datalist, "volume"):
        image = nib.load(tmp_path / row["image"])
        codes.add(nib.aff2axcodes(image.affine))
        # Render the same subject again, with the draws in the order in which they are written.
        place, index = PHANTOM_CLASSES.index(row["label"]), int(row["subject"][-3:])
        rng = np.random.default_rng((5, place, False, index))
        modality = "CT" if rng.random() < 0.45 else "MR"
        shape = (32, 32 - int(rng.integers(0, 3)), int(rng.integers(24, 33)))
        region = REGIONS[row["label"]]
        found = render_volume(region.build(rng), region, modality, shape, rng)
        canonical = nib.as_closest_canonical(image)
        assert np.abs(canonical.get_fdata() - found.pixels).max() <= 0.5
        assert np.allclose(canonical.affine[:3, 3], found.origin, atol=1e-3)
        assert np.allclose(canonical.affine[:3, :3], np.diag(found.spacing), atol=1e-4)
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        assert image.header.get_xyzt_units()[0] == "mm"
    assert len(codes) >= 4


def test_images_come_in_8_and_16_bits_as_slices_and_projections(phantoms: Path) -> None:
    modes = set()
    for row in rows_of(phantoms, "image"):
        with Image.open(phantoms.parent / row["image"]) as picture:
            modes.add(picture.mode)
            pixels = np.asarray(picture)
        assert pixels.max() == (255 if picture.mode == "L" else 65535)
        assert (row["modality"] == "XR") == (row["projection"] != "none")
    assert modes == {"L", "I;16"}
    assert {row["projection"] for row in rows_of(phantoms, "image")} == {"none", "frontal", "lateral"}


def test_an_ellipsoid_fills_its_volume_and_hollow_bands_and_lean_follow_their_formulas() -> None:
    x, y, z = (np.arange(-30, 30, dtype=np.float32) + 0.5 for _ in range(3))
    grid = x[:, None, None], y[None, :, None], z[None, None]
    solid = paint([Part("bone", (2, 0, 0), (20, 15, 10))], *grid) == TISSUES.index("bone")
    assert solid.sum() == pytest.approx(4 / 3 * np.pi * 20 * 15 * 10, rel=0.01)
    shell = paint([Part("bone", (2, 0, 0), (20, 15, 10), hollow=0.5)], *grid) > 0
    assert shell.sum() == pytest.approx(solid.sum() * 7 / 8, rel=0.02)
    bands = paint([Part("bone", (0, 0, 0), (20, 20, np.inf), bands=(10, 0.0))], *grid) > 0
    assert bands.sum() == pytest.approx(0.4 * np.pi * 400 * 60, rel=0.02)  # 4 of 10 rows, 0.42 rounded down
    leaning = paint([Part("bone", (0, 0, 0), (4, 4, np.inf), lean=(0.5, 0.0))], *grid) > 0
    centres = (leaning * x[:, None, None]).sum((0, 1)) / leaning.sum((0, 1))
    assert np.allclose(centres, 0.5 * z, atol=0.2)


def test_a_projection_absorbs_as_much_as_the_rays_meet() -> None:
    # A ball of muscle: along the ray through its middle absorption is highest, and outside there is none.
    region = REGIONS["knee"]
    ball = [Part("muscle", (0, 0, 0), (50, 50, 50))]
    found = render_projection(ball, region, (60, 60), False, np.random.default_rng(2)).pixels
    middle = slice(25, 35)
    inside, outside = np.median(found[middle, middle]), np.median(found[:, [3, 4, -4, -5]][middle])
    assert abs(float(inside) - float(outside)) > 0.5  # bright on dark or dark on bright


def untrained_features(pictures: list[np.ndarray], seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    encoder = SliceEncoder("resnet18", embedding_dim=64).eval()
    batch = torch.stack([standardised(picture) for picture in pictures])
    with torch.no_grad():
        return encoder(batch).features


def standardised(picture: np.ndarray, size: int = 56) -> torch.Tensor:
    low, high = np.percentile(picture, (1, 99))
    values = torch.from_numpy(np.clip((picture - low) / (high - low), 0, 1).astype(np.float32))[None]
    return torch.nn.functional.interpolate(values[None], (size, size), mode="bilinear")[0] * 4 - 2


def test_an_untrained_encoder_sees_classes_above_chance_and_far_from_all(phantoms: Path) -> None:
    rows = rows_of(phantoms, "image")
    pictures = [np.asarray(Image.open(phantoms.parent / row["image"])).astype(np.float64) for row in rows]
    labels, subjects = [row["label"] for row in rows], [row["subject"] for row in rows]
    accuracy = knn_accuracy(untrained_features(pictures), labels, groups=subjects, num_neighbours=10)
    assert 1.5 / len(PHANTOM_CLASSES) < accuracy < 0.8


def test_classes_can_be_learned_from_painted_structure() -> None:
    # What a good encoder can extract at best: shares of tissue in a coarse grid, without contrast, noise or blur.
    signatures, labels = [], []
    for label in PHANTOM_CLASSES:
        for subject in range(6):
            region = REGIONS[label]
            grid = [np.linspace(-e, e, 12, dtype=np.float32) for e in region.extent]
            painted = paint(
                region.build(np.random.default_rng(subject)),
                grid[0][:, None, None], grid[1][None, :, None], grid[2][None, None],
            )  # fmt: skip
            signatures.append(np.bincount(painted.ravel(), minlength=len(TISSUES)) ** 0.5)
            labels.append(label)
    table = torch.tensor(np.stack(signatures))
    assert knn_accuracy(table - table.mean(0), labels, num_neighbours=3) > 0.95


def test_the_same_call_reuses_a_folder_and_another_is_refused(tmp_path: Path) -> None:
    datalist = write_phantoms(tmp_path, 1, 0, size=24)
    before = datalist.stat().st_mtime_ns
    assert write_phantoms(tmp_path, 1, 0, size=24) == datalist
    assert datalist.stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="not of these phantoms"):
        write_phantoms(tmp_path, 1, 0, size=24, seed=1)
    datalist.write_text("not JSON")
    with pytest.raises(FileExistsError, match="not of these phantoms"):
        write_phantoms(tmp_path, 1, 0, size=24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_volumes_per_class": 0, "num_images_per_class": 0}, "not both 0"),
        ({"num_volumes_per_class": -1}, "must be 0 or more"),
        ({"size": 8}, "size must be at least 16"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"test_share": 1.0}, "test_share must be in"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_phantoms(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
