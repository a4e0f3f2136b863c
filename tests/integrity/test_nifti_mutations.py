# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Damaged NIfTI, MetaImage and NRRD files: an inspection each, soon, and what is taken is what readers read.

``INTEGRITY_MUTATIONS=2000 pytest …`` runs so many instead of 300.
"""

from __future__ import annotations

import gzip
import os
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from monai_cluster.integrity.findings import Inspection
from monai_cluster.integrity.itk_headers import inspect_metaimage, inspect_nrrd
from monai_cluster.integrity.nifti import inspect_nifti
from monai_cluster.integrity.silence import hushed

from .mutations import Field, lie_in_text, mutate
from .voxel_files import metaimage, nifti, nrrd, phantom

MUTATIONS = int(os.environ.get("INTEGRITY_MUTATIONS", "300"))
SECONDS = 1.0
VOXELS = phantom((12, 14, 10))
RAW = VOXELS.tobytes(order="F")

NIFTI_FIELDS: list[Field] = [
    *[(offset, "<h") for offset in (*range(40, 56, 2), 68, 70, 72, 252, 254)],
    *[(offset, "<f") for offset in (*range(76, 108, 4), 108, 112, 116, *range(256, 328, 4))],
    (0, "<i"),
    (123, "<B"),
    (344, "<i"),
    (348, "<i"),
]
NIFTI2_FIELDS: list[Field] = [
    (0, "<i"),
    (12, "<h"),
    (14, "<h"),
    *[(offset, "<q") for offset in (*range(16, 80, 8), 168)],
    *[(offset, "<d") for offset in (*range(104, 168, 8), 176, 184, *range(352, 496, 8))],
    (344, "<i"),
    (348, "<i"),
    (500, "<i"),
    (540, "<i"),
]
EXTENSION_FIELDS: list[Field] = [*NIFTI_FIELDS, (352, "<i"), (356, "<i")]


@dataclass(frozen=True)
class Seed:
    """A sound file and the ways to damage it."""

    suffix: str
    data: bytes
    damage: Callable[[bytes, np.random.Generator], bytes]


def inside_gzip(fields: list[Field]) -> Callable[[bytes, np.random.Generator], bytes]:
    return lambda data, rng: gzip.compress(mutate(gzip.decompress(data), rng, fields), 1, mtime=0)


def in_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Half of the damage in the text header, half anywhere."""
    end = data.find(b"LOCAL\n") + 6 if b"LOCAL" in data else data.find(b"\n\n") + 1
    return lie_in_text(data, rng, end) if rng.random() < 0.5 else mutate(data, rng)


def seeds() -> dict[str, Seed]:
    plain, packed = nifti(VOXELS), zlib.compress(RAW)
    second = nib.Nifti2Image(VOXELS, np.diag([-1.0, -1, 2, 1])).to_bytes()
    extended = nifti(VOXELS, extension=struct.pack("<ii", 32, 6) + b"a comment".ljust(24, b"\0"))
    return {
        "nifti": Seed(".nii", plain, lambda data, rng: mutate(data, rng, NIFTI_FIELDS)),
        "nifti2": Seed(".nii", second, lambda data, rng: mutate(data, rng, NIFTI2_FIELDS)),
        "extended": Seed(".nii", extended, lambda data, rng: mutate(data, rng, EXTENSION_FIELDS)),
        "before gzip": Seed(".nii.gz", gzip.compress(plain), inside_gzip(NIFTI_FIELDS)),
        "after gzip": Seed(".nii.gz", gzip.compress(plain), mutate),
        "metaimage": Seed(".mha", metaimage() + RAW, in_header),
        "compressed metaimage": Seed(
            ".mha", metaimage(CompressedData="True", CompressedDataSize=str(len(packed))) + packed, in_header
        ),
        "nrrd": Seed(".nrrd", nrrd() + RAW, in_header),
        "gzip nrrd": Seed(".nrrd", nrrd(encoding="gzip") + gzip.compress(RAW), in_header),
    }


def inspect(path: Path) -> Inspection:
    if path.name.endswith((".nii", ".nii.gz")):
        return inspect_nifti(path)
    return (inspect_metaimage if path.suffix == ".mha" else inspect_nrrd)(path)


def read(path: Path) -> np.ndarray:
    """All values as the package's readers read them."""
    with hushed():
        if path.name.endswith((".nii", ".nii.gz")):
            return np.asanyarray(nib.load(path).dataobj)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T


def check_taken(path: Path, inspection: Inspection) -> None:
    """What was not refused is read whole, with the shape and the values that the facts state."""
    facts, values = inspection.facts, read(path)
    assert facts.shape is not None
    assert [side for side in values.shape if side > 1] == [side for side in facts.shape if side > 1]
    finite = values[np.isfinite(values)].astype(np.float64)
    assert (facts.minimum, facts.maximum) == pytest.approx((finite.min(), finite.max()), rel=1e-4)


@pytest.mark.parametrize("name", seeds())
def test_damaged_files_end_in_an_inspection_that_readers_confirm(tmp_path: Path, name: str) -> None:
    seed, refused, count = seeds()[name], 0, -(-MUTATIONS // len(seeds()))
    path = tmp_path / f"item{seed.suffix}"
    path.write_bytes(seed.data)
    assert inspect(path).verdict == "accept"
    for number in range(count):
        damaged = seed.damage(seed.data, np.random.default_rng([number, *name.encode()]))
        path.write_bytes(damaged)
        started = time.perf_counter()
        inspection = inspect(path)
        assert time.perf_counter() - started < SECONDS, number
        assert "UNREADABLE" not in {one.code for one in inspection.findings}, (number, inspection.findings)
        if inspection.verdict == "reject":
            refused += 1
        else:
            check_taken(path, inspection)
        if len(damaged) < len(seed.data) and seed.data.startswith(damaged):
            assert inspection.verdict == "reject", f"mutation {number}: a cut file was taken"
    assert refused > count // 4


@pytest.mark.parametrize("name", seeds())
def test_no_cut_file_is_taken_wherever_it_is_cut(tmp_path: Path, name: str) -> None:
    seed = seeds()[name]
    path, size = tmp_path / f"item{seed.suffix}", len(seed.data)
    for length in {0, 1, 3, 4, 100, 347, 348, 352, 353, size // 3, size // 2, *range(size - 12, size)}:
        path.write_bytes(seed.data[:length])
        inspection = inspect(path)
        assert inspection.verdict == "reject", length
        assert {one.code for one in inspection.findings} <= {
            "TRUNCATED",
            "EMPTY",
            "NOT_AN_IMAGE",
            "HEADER",
            "CONTAINER",
            "CORRUPT",
        }


@pytest.mark.parametrize("name", ["after gzip", "gzip nrrd", "compressed metaimage"])
def test_a_flipped_byte_in_compressed_values_is_never_taken(tmp_path: Path, name: str) -> None:
    seed = seeds()[name]
    path, start = (
        tmp_path / f"item{seed.suffix}",
        max(12, seed.data.find(b"\x1f\x8b") + 12, seed.data.find(b"LOCAL\n") + 8),
    )
    for at in np.random.default_rng(0).integers(start, len(seed.data), size=40):
        damaged = bytearray(seed.data)
        damaged[at] ^= 0x5A
        path.write_bytes(damaged)
        inspection = inspect(path)
        assert inspection.verdict == "reject", at
