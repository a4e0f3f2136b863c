# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""MetaImage and NRRD: text headers that lie, that name files which are not theirs, and payloads of another length."""

from __future__ import annotations

import bz2
import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from monai_cluster.integrity.findings import Inspection
from monai_cluster.integrity.itk_headers import inspect_metaimage, inspect_nrrd
from monai_cluster.integrity.limits import Limits
from monai_cluster.integrity.nifti import inspect_nifti

from .voxel_files import LPS, codes, metaimage, nifti, nrrd, phantom, write

VOXELS = phantom()
RAW = VOXELS.tobytes(order="F")
PACKED = zlib.compress(RAW)
SIZE = str(len(PACKED))
STATED = {"CompressedData": "True", "CompressedDataSize": SIZE}
TURNED = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def inspect(tmp_path: Path, data: bytes, name: str = "item.mha", **options: Any) -> Inspection:
    path = tmp_path / name
    path.write_bytes(data)
    return (inspect_nrrd if path.suffix in (".nrrd", ".nhdr") else inspect_metaimage)(path, **options)


def said(inspection: Inspection) -> str:
    return " ".join(str(one) for one in inspection.findings)


def reader_affine(path: Path) -> np.ndarray:
    from monai_cluster.data.readers import read_volume

    affine: np.ndarray = read_volume(path).affine.numpy()
    return affine


# controls


@pytest.mark.parametrize("name", ["item.mha", "item.mhd", "item.nrrd", "item.nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_what_simpleitk_writes_is_taken_as_it_reads_it(tmp_path: Path, name: str, compressed: bool, dtype: str) -> None:
    values = ((VOXELS.clip(-1000, 200) + 1000) / 10).astype(dtype)
    image = sitk.GetImageFromArray(values.T)
    image.SetSpacing((0.5, 0.75, 3))
    image.SetOrigin((10, -20, 30))
    image.SetDirection(TURNED)
    path = tmp_path / name
    sitk.WriteImage(image, str(path), compressed)
    inspection = (inspect_metaimage if path.suffix in (".mha", ".mhd") else inspect_nrrd)(path, "volume")
    facts = inspection.facts
    assert inspection.findings == []
    assert (facts.kind, facts.shape, facts.dtype) == ("volume", (12, 14, 10), np.dtype(dtype).name)
    assert facts.spacing == pytest.approx((0.5, 0.75, 3))
    assert facts.num_files == len(list(tmp_path.iterdir()))
    assert facts.num_bytes == sum(one.stat().st_size for one in tmp_path.iterdir())
    assert (facts.minimum, facts.maximum) == pytest.approx((values.min(), values.max()))
    axes = np.array(TURNED).reshape(3, 3) * (0.5, 0.75, 3)
    expected = np.diag([-1, -1, 1]) @ np.c_[axes, (10, -20, 30)]
    assert np.array(facts.affine)[:3] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("item.mha", metaimage(TransformMatrix="0 1 0 1 0 0 0 0 1")),
        ("item.mha", metaimage(TransformMatrix=None, Offset=None, Position="1 2 3", Rotation="0 0 1 1 0 0 0 1 0")),
        ("item.mha", metaimage(ElementSpacing=None, ElementSize="3 2 1")),
        ("item.mha", metaimage(ElementSpacing=None)),
        ("item.mha", metaimage(ElementType="MET_USHORT", BinaryData=None, BinaryDataByteOrderMSB=None)),
        ("item.mha", metaimage(BinaryDataByteOrderMSB=None, ElementByteOrderMSB="True")),
        ("item.mha", metaimage(NDims="4", DimSize="12 14 10 1", ElementSpacing="1 1 2 1", Offset="5 6 7 0",
                               TransformMatrix="1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1")),
        ("item.nrrd", nrrd(space="right-anterior-superior")),
        ("item.nrrd", nrrd(space="LAS")),
        ("item.nrrd", nrrd(space="scanner-xyz")),
        ("item.nrrd", nrrd(space=None, space_directions=None, space_origin=None, spacings="1 2 3")),
        ("item.nrrd", nrrd(space=None, space_directions=None, space_origin=None, spacings="1 2 3", axis_mins="4 5 6")),
        ("item.nrrd", nrrd(space=None, space_directions=None, space_origin=None, spacings="1 2 3", axis_mins="4 5 6",
                           centerings="node node node")),
        ("item.nrrd", nrrd(space=None, space_directions=None, space_origin=None, axis_mins="nan nan nan")),
        ("item.nrrd", nrrd(space_directions="(0,1,0) (-0.8,0,0.6) (1.2,0,1.6)", kinds=None, endian="big")),
        ("item.nrrd", nrrd(extra='space units: "mm" "mm" "mm"\nkey:=a value\n# a comment\n')),
    ],
)  # fmt: skip
def test_the_affine_is_that_of_the_packages_reader(tmp_path: Path, name: str, data: bytes) -> None:
    inspection = inspect(tmp_path, data + RAW, name, kind="volume")
    assert inspection.verdict != "reject", said(inspection)
    assert np.array(inspection.facts.affine) == pytest.approx(reader_affine(tmp_path / name))


def test_equal_voxels_have_equal_hashes_in_every_format(tmp_path: Path) -> None:
    hashes = {
        inspect_nifti(write(tmp_path / "item.nii.gz", nifti(VOXELS))).facts.content_hash,
        inspect(tmp_path, metaimage() + RAW).facts.content_hash,
        inspect(tmp_path, nrrd(encoding="gzip") + gzip.compress(RAW), "item.nrrd").facts.content_hash,
    }
    assert len(hashes) == 1


def test_2d_files_are_images(tmp_path: Path) -> None:
    flat = metaimage(
        NDims="2", DimSize="40 42", ElementSpacing="1 2", Offset="1 2", TransformMatrix="1 0 0 1", HeaderSize="0"
    )
    inspection = inspect(tmp_path, flat + RAW, kind="image")
    assert inspection.findings == []
    assert (inspection.facts.shape, inspection.facts.spacing) == ((40, 42), (1.0, 2.0))
    assert codes(inspect(tmp_path, flat + RAW, kind="volume")) == {("reject", "NDIM")}
    assert codes(inspect(tmp_path, metaimage() + RAW, kind="image")) == {("reject", "NDIM")}


# data files


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../outside/secret.raw", "PATH"),
        ("sub/../../outside/secret.raw", "PATH"),
        ("{root}/outside/secret.raw", "PATH"),
        ("C:\\secret.raw", "PATH"),
        ("..\\outside\\secret.raw", "PATH"),
        ("~/secret.raw", "PATH"),
        ("file:///etc/passwd", "PATH"),
        ("link.raw", "PATH"),
        ("folder/secret.raw", "PATH"),
        ("item{suffix}", "HEADER"),
        ("LIST", "HEADER"),
        ("slice%03d.raw", "HEADER"),
        ("missing.raw", "MISSING"),
        ("pipe.raw", "NOT_A_FILE"),
        (".", "NOT_A_FILE"),
    ],
)
def test_data_files_outside_the_folder_are_refused(tmp_path: Path, suffix: str, name: str, code: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (folder / "sub").mkdir(parents=True)
    (outside / "secret.raw").write_bytes(RAW)
    (folder / "link.raw").symlink_to(outside / "secret.raw")
    (folder / "folder").symlink_to(outside)
    os.mkfifo(folder / "pipe.raw")
    name = name.format(root=tmp_path, suffix=suffix)
    header = metaimage(ElementDataFile=name) if suffix == ".mhd" else nrrd(data_file=name)
    inspection = inspect(folder, header, f"item{suffix}")
    assert codes(inspection) == {("reject", code)}
    assert "secret" not in said(inspection)
    assert inspection.facts.content_hash is None


@pytest.mark.parametrize("name", ["values.raw", "two words.raw", "sub/values.raw", "inside.raw"])
def test_data_files_inside_the_folder_are_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/values.raw").write_bytes(RAW)
    if name == "inside.raw":
        (tmp_path / name).symlink_to("sub/values.raw")
    (tmp_path / name).write_bytes(RAW)
    for suffix, header in ((".mhd", metaimage(ElementDataFile=name)), (".nhdr", nrrd(data_file=name))):
        inspection = inspect(tmp_path, header, f"item{suffix}")
        assert inspection.findings == []
        assert inspection.facts.minimum == VOXELS.min()


# payloads


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("item.mha", metaimage() + RAW[:-1], {("reject", "TRUNCATED")}),
        ("item.mha", metaimage() + RAW + b"x", {("warn", "TRAILING")}),
        ("item.mha", metaimage() + RAW + RAW, {("reject", "TRAILING")}),
        ("item.mha", metaimage(DimSize="12 14 999") + RAW, {("reject", "TRUNCATED")}),
        ("item.mha", metaimage(**STATED) + PACKED[:-9], {("reject", "TRUNCATED")}),
        ("item.mha", metaimage(**STATED) + PACKED[:-1] + b"x", {("reject", "CORRUPT")}),
        ("item.mha", metaimage(**STATED) + PACKED + b"x", {("warn", "TRAILING")}),
        ("item.mha", metaimage(**STATED) + RAW, {("reject", "CORRUPT")}),
        ("item.mha", metaimage(CompressedData="True") + PACKED, {("reject", "HEADER")}),
        ("item.mha", metaimage(CompressedData="True", CompressedDataSize="99") + PACKED, {("reject", "HEADER")}),
        ("item.nrrd", nrrd() + RAW[:-1], {("reject", "TRUNCATED")}),
        ("item.nrrd", nrrd(sizes="12 14 999") + RAW, {("reject", "TRUNCATED")}),
        ("item.nrrd", nrrd() + RAW + b"x", {("warn", "TRAILING")}),
        ("item.nrrd", nrrd(encoding="gzip") + gzip.compress(RAW)[:-8], {("reject", "TRUNCATED")}),
        ("item.nrrd", nrrd(encoding="gzip") + gzip.compress(RAW)[:-6] + b"abcdef", {("reject", "CORRUPT")}),
        ("item.nrrd", nrrd(encoding="gzip") + gzip.compress(RAW) + b"x", {("warn", "TRAILING")}),
        ("item.nrrd", nrrd(encoding="gzip") + gzip.compress(RAW + RAW), {("reject", "TRAILING")}),
        ("item.nrrd", nrrd(encoding="gzip") + gzip.compress(RAW[:999]) + gzip.compress(RAW[999:]), set()),
        ("item.nrrd", nrrd(encoding="gzip") + RAW, {("reject", "CORRUPT")}),
        ("item.nrrd", nrrd(encoding="bzip2") + bz2.compress(RAW), {("reject", "CODEC")}),
        ("item.nrrd", nrrd(encoding="ascii") + RAW, {("reject", "CODEC")}),
    ],
)  # fmt: skip
def test_the_payload_must_be_as_long_as_the_header_says(
    tmp_path: Path, name: str, data: bytes, expected: set[tuple[str, str]]
) -> None:
    assert codes(inspect(tmp_path, data, name)) == expected


def test_a_bomb_is_not_decoded_further_than_declared(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(1 << 28), 9)
    data = metaimage(CompressedData="True", CompressedDataSize=str(len(bomb))) + bomb
    inspection = inspect(tmp_path, data)
    assert {("reject", "TRAILING")} <= codes(inspection)
    assert "more than" in said(inspection)


# headers


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"NDims": "0"}, "HEADER"),
        ({"NDims": "three"}, "HEADER"),
        ({"NDims": None}, "HEADER"),
        ({"DimSize": "12 -14 10"}, "HEADER"),
        ({"DimSize": "12 0 10"}, "EMPTY"),
        ({"DimSize": "12 14"}, "HEADER"),
        ({"DimSize": "12 14 10 1"}, "HEADER"),
        ({"DimSize": "12 14 1e1"}, "HEADER"),
        ({"DimSize": "60000 60000 60000"}, "TOO_LARGE"),
        ({"DimSize": "9999999999999999999999 1 1"}, "HEADER"),
        ({"ElementSpacing": "1 0 1"}, "SPACING"),
        ({"ElementSpacing": "1 -1 1"}, "SPACING"),
        ({"ElementSpacing": "1 nan 1"}, "SPACING"),
        ({"ElementSpacing": "1 1"}, "HEADER"),
        ({"ElementSpacing": "1 x 1"}, "HEADER"),
        ({"ElementSpacing": "1000 1000 1000"}, "SPACING"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "AFFINE"),
        ({"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, "AFFINE"),
        ({"Rotation": "1 0 0 0 1 0 0 0 1"}, "HEADER"),
        ({"ElementType": "MET_STRING"}, "DTYPE"),
        ({"ElementType": "MET_SHORT_ARRAY"}, "DTYPE"),
        ({"ElementNumberOfChannels": "3"}, "NDIM"),
        ({"BinaryData": "False"}, "CODEC"),
        ({"BinaryData": "perhaps"}, "HEADER"),
        ({"HeaderSize": "-1"}, "HEADER"),
        ({"ObjectType": "Tube"}, "HEADER"),
        ({"ElementDataFile": None}, "TRUNCATED"),
        ({"": "x"}, "HEADER"),
    ],
)
def test_a_metaimage_header_that_lies_is_refused(tmp_path: Path, fields: dict[str, str | None], code: str) -> None:
    data = metaimage(**fields) + (b"" if "ElementDataFile" in fields else RAW)
    assert ("reject", code) in codes(inspect(tmp_path, data))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dimension": "0"}, "HEADER"),
        ({"dimension": None}, "HEADER"),
        ({"sizes": "12 -14 10"}, "HEADER"),
        ({"sizes": "12 14 0"}, "EMPTY"),
        ({"sizes": "60000 60000 60000"}, "TOO_LARGE"),
        ({"type": "block"}, "DTYPE"),
        ({"type": "complex"}, "DTYPE"),
        ({"endian": None}, "HEADER"),
        ({"endian": "middle"}, "HEADER"),
        ({"encoding": "zip"}, "CODEC"),
        ({"space directions": "(1,0,0) (0,0,0) (0,0,1)"}, "SPACING"),
        ({"space directions": "(1,0,0) (0,nan,0) (0,0,1)"}, "SPACING"),
        ({"space directions": "(1,0,0) (1,0,0) (0,0,1)"}, "AFFINE"),
        ({"space directions": "(1,0,0) (0,1,0)"}, "HEADER"),
        ({"space directions": "(1,0) (0,1) (0,1)"}, "HEADER"),
        ({"space directions": "none (0,1,0) (0,0,1)"}, "NDIM"),
        ({"space origin": "5 6 7"}, "HEADER"),
        ({"space origin": "(nan,0,0)"}, "AFFINE"),
        ({"space directions": None, "space origin": None, "spacings": "1 0 1"}, "SPACING"),
        ({"space directions": None, "space origin": None, "spacings": "1 -1 1"}, "SPACING"),
        ({"kinds": "vector domain domain"}, "NDIM"),
        ({"kinds": "domain domain time"}, "NDIM"),
        ({"kinds": "domain"}, "HEADER"),
        ({"byte skip": "-1"}, "HEADER"),
        ({"line skip": "2"}, "HEADER"),
        ({"no such field": "1"}, "HEADER"),
    ],
)
def test_a_nrrd_header_that_lies_is_refused(tmp_path: Path, fields: dict[str, str | None], code: str) -> None:
    assert ("reject", code) in codes(inspect(tmp_path, nrrd(**fields) + RAW, "item.nrrd"))


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("item.mha", metaimage(TransformMatrix=None), "ORIENTATION"),
        ("item.mha", metaimage(ElementSpacing=None), "SPACING"),
        ("item.mha", metaimage(DistanceUnits="um"), "SPACING"),
        ("item.mha", metaimage(ElementToIntensityFunctionSlope="2"), "SCALE"),
        ("item.mha", metaimage(TransformMatrix="1 0.1 0 0 1 0 0 0 1"), "AFFINE"),
        ("item.mha", metaimage(Comment="DOE^JANE"), "PHI"),
        ("item.mha", metaimage(**{"0010|0010": "Jane"}), "PHI"),
        ("item.nrrd", nrrd(space="scanner-xyz"), "ORIENTATION"),
        ("item.nrrd", nrrd(space_directions=None, space_origin=None), "SPACING"),
        ("item.nrrd", nrrd(extra='space units: "um" "um" "um"\n'), "SPACING"),
        ("item.nrrd", nrrd(extra="# DOE^JANE\n"), "PHI"),
        ("item.nrrd", nrrd(extra="DICOM_0010_0010_NAME:=Jane\n"), "PHI"),
        ("item.nrrd", nrrd(content="MRN 123456"), "PHI"),
    ],
)
def test_an_odd_header_is_warned_about(tmp_path: Path, name: str, data: bytes, code: str) -> None:
    inspection = inspect(tmp_path, data + RAW, name)
    assert ("warn", code) in codes(inspection)
    assert inspection.verdict == "warn"
    assert "ane" not in said(inspection).replace("plane", "")


def test_repeated_fields_endless_lines_and_other_content_are_refused(tmp_path: Path) -> None:
    twice = metaimage().replace(b"NDims = 3\n", b"NDims = 3\nNDims = 3\n")
    assert codes(inspect(tmp_path, twice + RAW)) == {("reject", "HEADER")}
    assert codes(inspect(tmp_path, b"NDims = 3\nComment = " + b"x" * (1 << 17) + RAW)) == {("reject", "HEADER")}
    assert codes(inspect(tmp_path, nrrd()[:-1], "item.nrrd")) == {("reject", "TRUNCATED")}
    assert codes(inspect(tmp_path, nrrd().replace(b"NRRD0004", b"NRRD0009") + RAW, "item.nrrd")) == {
        ("reject", "HEADER")
    }
    assert codes(inspect(tmp_path, b"<html></html>", "item.nrrd")) == {("reject", "NOT_AN_IMAGE")}
    assert codes(inspect(tmp_path, gzip.compress(metaimage() + RAW))) == {("reject", "CONTAINER")}
    assert codes(inspect(tmp_path, nrrd() + RAW, "item.mha")) == {("reject", "CONTAINER")}
    assert codes(inspect(tmp_path, metaimage() + RAW, "item.raw")) == {("reject", "CONTAINER")}
    assert codes(inspect(tmp_path, b"")) == {("reject", "EMPTY")}


def test_values_and_limits_are_judged(tmp_path: Path) -> None:
    assert codes(inspect(tmp_path, metaimage() + bytes(len(RAW)))) == {("reject", "CONSTANT")}
    limits = Limits(max_decoded_bytes=1000)
    assert codes(inspect(tmp_path, metaimage() + RAW, limits=limits)) == {("reject", "TOO_LARGE")}


def test_the_affine_of_nifti_and_nrrd_is_one(tmp_path: Path) -> None:
    origin = (-LPS[0][3], -LPS[1][3], LPS[2][3])
    same = nrrd(space_directions="(1,0,0) (0,1,0) (0,0,2)", space_origin=str(origin).replace(" ", ""))
    one = inspect(tmp_path, same + RAW, "item.nrrd").facts
    other = inspect_nifti(write(tmp_path / "item.nii.gz", nifti(VOXELS))).facts
    assert np.array(one.affine) == pytest.approx(np.array(other.affine))
    assert one.picture_hash == other.picture_hash
