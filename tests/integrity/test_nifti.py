# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""NIfTI files as hospitals and hostile senders make them: what is refused, what is warned about, what is taken."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_cluster.integrity.findings import Inspection
from monai_cluster.integrity.limits import Limits
from monai_cluster.integrity.nifti import inspect_nifti

from .voxel_files import LPS, codes, nifti, phantom, write

VOXELS = phantom()
NAN, INF = float("nan"), float("inf")
QUARTER = 0.5**0.5  # quaternion of a quarter turn around an axis
MIRRORED = ((1.0, 0, 0, -13), (0, -1.0, 0, 12), (0, 0, 2.0, -30))


def inspect(tmp_path: Path, data: bytes, name: str = "item.nii.gz", **options: Any) -> Inspection:
    return inspect_nifti(write(tmp_path / name, data), **options)


def said(inspection: Inspection) -> str:
    return " ".join(str(one) for one in inspection.findings)


# controls


@pytest.mark.parametrize("name", ["item.nii", "item.nii.gz", "ITEM.NII.GZ"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_sound_volume_is_taken_without_a_word(tmp_path: Path, name: str, order: str) -> None:
    path = tmp_path / name
    data = nifti(VOXELS, order=order)
    path.write_bytes(gzip.compress(data) if name.lower().endswith("gz") else data)
    inspection = inspect_nifti(path, "volume")
    facts = inspection.facts
    assert inspection.findings == []
    assert (facts.kind, facts.shape, facts.spacing) == ("volume", (12, 14, 10), (1.0, 1.0, 2.0))
    assert (facts.orientation, facts.dtype, facts.num_bytes) == ("LPS", "int16", path.stat().st_size)
    assert (facts.minimum, facts.maximum) == (VOXELS.min(), VOXELS.max())
    assert facts.mean == pytest.approx(VOXELS.mean())
    assert facts.std == pytest.approx(VOXELS.std())
    assert np.array(facts.affine)[:3] == pytest.approx(np.array(LPS))


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_every_real_dtype_is_taken(tmp_path: Path, dtype: str) -> None:
    values = ((VOXELS.clip(-1000, 200) + 1000) / 10).astype(dtype)
    inspection = inspect(tmp_path, nifti(values))
    assert inspection.findings == []
    assert inspection.facts.dtype == np.dtype(dtype).name
    assert inspection.facts.maximum == pytest.approx(values.max())


def test_nifti_2_and_what_nibabel_writes_is_taken(tmp_path: Path) -> None:
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        nib.save(kind(VOXELS, np.diag([-1.0, -1, 2, 1])), tmp_path / "item.nii.gz")
        inspection = inspect_nifti(tmp_path / "item.nii.gz")
        assert inspection.findings == []
        assert inspection.facts.orientation == "LPS"


def test_equal_content_has_equal_hashes_whatever_the_container(tmp_path: Path) -> None:
    plain = inspect(tmp_path, nifti(VOXELS), "a.nii").facts
    swapped = inspect(tmp_path, nifti(VOXELS, order=">"), "b.nii.gz").facts
    other = VOXELS.copy()
    other[3, 4, 5] += 1
    assert plain.content_hash == swapped.content_hash != inspect(tmp_path, nifti(other), "c.nii").facts.content_hash
    assert plain.picture_hash == swapped.picture_hash


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    facts = inspect(tmp_path, nifti(VOXELS, scaling=(0.5, -10))).facts
    assert facts.minimum == VOXELS.min() * 0.5 - 10


@pytest.mark.parametrize("scaling", [(0, 7), (NAN, NAN), (NAN, 0)])
def test_a_slope_of_zero_or_unset_means_unscaled(tmp_path: Path, scaling: tuple[float, float]) -> None:
    inspection = inspect(tmp_path, nifti(VOXELS, scaling=scaling))
    assert inspection.findings == []
    assert inspection.facts.minimum == VOXELS.min()


def test_the_thumbnail_shows_the_front_on_top_and_the_right_on_the_left(tmp_path: Path) -> None:
    shape = (40, 48, 5)
    values = np.zeros(shape, np.int16)
    values[20:, :, :] += 50  # in LPS: the patient's left half
    values[:, :24, :] += 100  # the front
    stored = nifti(values)
    turned = values[::-1].transpose(1, 0, 2).copy()
    flipped = nifti(turned, sform=((0, 1.0, 0, -29), (-1.0, 0, 0, 12), (0, 0, 2.0, -30)))
    one, other = (inspect(tmp_path, data).facts.thumbnail for data in (stored, flipped))
    assert one.shape == (64, 53)
    assert one[5, 5] > one[60, 5]
    assert one[5, 45] > one[5, 5]
    assert np.array_equal(one, other)


# containers


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda data: data[:60], "TRUNCATED"),
        (lambda data: data[: len(data) // 2], "TRUNCATED"),
        (lambda data: data[:-8], "TRUNCATED"),
        (lambda data: data[:-6] + b"\x55" + data[-5:], "CORRUPT"),
        (
            lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :],
            "CORRUPT",
        ),
        (lambda data: data + b"junk behind", "TRAILING"),
        (lambda data: gzip.compress(data), "CONTAINER"),
        (lambda data: gzip.decompress(data), "CONTAINER"),
        (lambda data: b"", "EMPTY"),
        (lambda data: b"<!DOCTYPE html><html>403 Forbidden</html>", "NOT_AN_IMAGE"),
        (lambda data: b'{"error": "not found"}', "NOT_AN_IMAGE"),
        (lambda data: b"\x89PNG\r\n\x1a\n" + bytes(400), "CONTAINER"),
    ],
)
def test_a_broken_container_is_refused(tmp_path: Path, damage: Any, code: str) -> None:
    path = tmp_path / "item.nii.gz"
    path.write_bytes(damage(gzip.compress(nifti(VOXELS))))
    assert codes(inspect_nifti(path)) == {("reject", code)}


def test_gzip_named_nii_and_other_suffixes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "item.nii").write_bytes(gzip.compress(nifti(VOXELS)))
    assert codes(inspect_nifti(tmp_path / "item.nii")) == {("reject", "CONTAINER")}
    assert codes(inspect(tmp_path, nifti(VOXELS), "item.dat")) == {("reject", "CONTAINER")}


@pytest.mark.parametrize("name", ["item.hdr", "item.img", "item.nii"])
def test_pairs_of_header_and_image_are_refused(tmp_path: Path, name: str) -> None:
    inspection = inspect(tmp_path, nifti(VOXELS, magic=b"ni1\0"), name)
    assert codes(inspection) == {("reject", "CONTAINER")}
    assert ".hdr/.img pair" in said(inspection)


def test_folders_pipes_missing_files_and_loops_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    expected = {"pipe": "NOT_A_FILE", "folder": "NOT_A_FILE", "loop": "LINK", "missing": "MISSING"}
    assert {name: inspect_nifti(tmp_path / f"{name}.nii.gz").findings[0].code for name in expected} == expected


def test_a_short_payload_in_whole_gzip_is_truncated(tmp_path: Path) -> None:
    inspection = inspect(tmp_path, nifti(VOXELS)[:-1])
    assert codes(inspection) == {("reject", "TRUNCATED")}
    assert "3359 bytes of voxels where 3360 are expected" in said(inspection)


@pytest.mark.parametrize(("extra", "severity"), [(1, "warn"), (100, "warn"), (336, "reject"), (5000, "reject")])
def test_trailing_bytes_are_seen_and_whole_slices_of_them_refused(tmp_path: Path, extra: int, severity: str) -> None:
    for name in ("item.nii", "item.nii.gz"):
        assert codes(inspect(tmp_path, nifti(VOXELS) + b"x" * extra, name)) == {(severity, "TRAILING")}


# header


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"magic": b"n+9\0"}, "NOT_AN_IMAGE"),
        ({"magic": b"\0\0\0\0"}, "HEADER"),
        ({"sizeof_hdr": 123}, "HEADER"),
        ({"dim": [0, 12, 14, 10]}, "HEADER"),
        ({"dim": [9, 12, 14, 10]}, "HEADER"),
        ({"dim": [3, 12, -14, 10]}, "HEADER"),
        ({"dim": [3, 12, 0, 10]}, "EMPTY"),
        ({"dim": [3, 32000, 32000, 32000]}, "TOO_LARGE"),
        ({"vox_offset": 16}, "HEADER"),
        ({"vox_offset": 0}, "HEADER"),
        ({"vox_offset": 351}, "HEADER"),
        ({"vox_offset": 352.5}, "HEADER"),
        ({"vox_offset": NAN}, "HEADER"),
        ({"vox_offset": 1e9}, "HEADER"),
        ({"vox_offset": 1e5}, "TRUNCATED"),
        ({"datatype": 7777}, "DTYPE"),
        ({"datatype": 0}, "DTYPE"),
        ({"datatype": 1}, "DTYPE"),
        ({"datatype": 32}, "DTYPE"),
        ({"datatype": 128}, "DTYPE"),
        ({"datatype": 1536}, "DTYPE"),
        ({"datatype": 2304}, "DTYPE"),
        ({"scaling": (1, NAN)}, "SCALE"),
        ({"scaling": (2, INF)}, "SCALE"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, fields: dict[str, Any], code: str) -> None:
    code = "HEADER" if fields.get("magic") else code
    assert codes(inspect(tmp_path, nifti(VOXELS, **fields))) == {("reject", code)}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"bitpix": 8}, "HEADER"),
        ({"scaling": (INF, 0)}, "SCALE"),
        ({"scaling": (NAN, 3)}, "SCALE"),
        ({"scaling": (-1, 0)}, "SCALE"),
        ({"scaling": (1e-20, 0)}, "SCALE"),
        ({"units": 1}, "SPACING"),
        ({"units": 3}, "SPACING"),
        ({"units": 7}, "HEADER"),
        ({"codes": (0, 9), "pixdim": (1, 1, 1, 2)}, "HEADER"),
    ],
)
def test_an_odd_header_is_warned_about(tmp_path: Path, fields: dict[str, Any], code: str) -> None:
    assert ("warn", code) in codes(inspect(tmp_path, nifti(VOXELS, **fields)))
    assert inspect(tmp_path, nifti(VOXELS, **fields)).verdict == "warn"


def test_a_nifti_2_file_copied_as_text_is_refused(tmp_path: Path) -> None:
    data = nib.Nifti2Image(VOXELS, np.eye(4)).to_bytes().replace(b"n+2\0\r\n\x1a\n", b"n+2\0\n\x1a\n\0")
    inspection = inspect(tmp_path, data)
    assert codes(inspection) == {("reject", "HEADER")}
    assert "line ends" in said(inspection)


def extension(size: int, code: int, content: bytes = b"") -> bytes:
    return struct.pack("<ii", size, code) + content.ljust(24, b"\0")


def test_extensions_are_walked(tmp_path: Path) -> None:
    assert inspect(tmp_path, nifti(VOXELS, extension=extension(32, 6, b"TE 3 ms"))).findings == []
    for lie in (0, 8, -16, 48, 2**31 - 1):
        assert codes(inspect(tmp_path, nifti(VOXELS, extension=extension(lie, 6)))) == {("reject", "HEADER")}
    assert codes(inspect(tmp_path, nifti(VOXELS, extension=extension(24, 6), vox_offset=384))) == {("warn", "HEADER")}
    hidden = nifti(VOXELS, extension=b"hidden text here").replace(b"\1\0\0\0hidden", b"\0\0\0\0hidden")
    assert codes(inspect(tmp_path, hidden)) == {("warn", "HEADER")}


def test_extensions_with_dicom_headers_code_or_names_are_warned_about(tmp_path: Path) -> None:
    assert codes(inspect(tmp_path, nifti(VOXELS, extension=extension(32, 16, b"\x80\x04.")))) == {("warn", "PICKLE")}
    dicom = extension(32, 2, b"\x10\0\x10\0PN\x04\0AB^C")
    assert codes(inspect(tmp_path, nifti(VOXELS, extension=dicom))) == {("warn", "PHI")}
    named = inspect(tmp_path, nifti(VOXELS, extension=extension(32, 6, b"DOE^JANE")))
    assert codes(named) == {("warn", "PHI")}
    assert "DOE" not in said(named)


def test_identifiers_in_the_header_are_warned_about_and_not_quoted(tmp_path: Path) -> None:
    for fields in (
        {"descrip": b"DOE^JANE 19700101 MRN 8899776"},
        {"aux_file": b"DOE^JANE"},
        {"descrip": b"x\0DOE^JANE"},
    ):
        inspection = inspect(tmp_path, nifti(VOXELS, **fields))  # type: ignore[arg-type]
        assert codes(inspection) == {("warn", "PHI")}
        assert "DOE" not in said(inspection)
        assert "8899776" not in said(inspection)


def test_a_name_in_the_gzip_header_is_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "item.nii.gz"
    with path.open("wb") as file, gzip.GzipFile("DOE^JANE.nii", "wb", fileobj=file) as packed:
        packed.write(nifti(VOXELS))
    assert codes(inspect_nifti(path)) == {("warn", "PHI")}


@pytest.mark.parametrize(
    "descrip", [b"5.0.10", b"FSL5.0", b"6.0.5:9e026117", b"TE=2.98;Time=143402.010;phase=1", b"SPM12 v1.2.3"]
)
def test_signatures_of_programs_are_no_identifiers(tmp_path: Path, descrip: bytes) -> None:
    assert inspect(tmp_path, nifti(VOXELS, descrip=descrip)).findings == []


# axes


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        ((40, 36), "image", set()),
        ((40, 36), None, set()),
        ((40, 36, 1), "image", set()),
        ((40, 36, 1), None, {("warn", "NDIM")}),
        ((40, 36), "volume", {("reject", "NDIM")}),
        ((40, 36, 1), "volume", {("reject", "NDIM")}),
        ((40, 36, 3), "volume", {("warn", "NDIM")}),
        ((12, 14, 10), "image", {("reject", "NDIM")}),
        ((12, 14, 10, 5), "volume", {("reject", "NDIM")}),
        ((12, 14, 10, 5), None, {("reject", "NDIM")}),
        ((12, 14, 10, 1, 3), "volume", {("reject", "NDIM")}),
        ((12, 14, 10, 1, 1), "volume", {("warn", "NDIM")}),
        ((40,), None, {("reject", "NDIM")}),
        ((1, 1, 1), "volume", {("reject", "TOO_SMALL")}),
        ((12, 4, 3), "volume", {("reject", "TOO_SMALL")}),
    ],
)
def test_the_number_of_axes_is_judged_by_kind(
    tmp_path: Path, shape: tuple[int, ...], kind: Any, expected: set[tuple[str, str]]
) -> None:
    assert codes(inspect(tmp_path, nifti(phantom(shape)), kind=kind)) == expected


def test_a_2d_image_has_two_spacings(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"codes": (1, 0), "pixdim": (1, 0.75, 1.5, 2)}
    facts = inspect(tmp_path, nifti(phantom((40, 36)), **fields)).facts
    assert (facts.kind, facts.shape, facts.spacing) == ("image", (40, 36), (0.75, 1.5))


# geometry


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"codes": (0, 0)}, {("warn", "ORIENTATION")}),
        ({"codes": (1, 0)}, set()),
        ({"sform": ((NAN, 0, 0, 0), *LPS[1:])}, {("reject", "AFFINE")}),
        ({"sform": ((-1, 0, 0, INF), *LPS[1:])}, {("reject", "AFFINE")}),
        ({"sform": ((-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 0, 0)), "pixdim": (1, 1, 1, 1)}, {("reject", "AFFINE")}),
        ({"sform": ((-1, -1, 0, 0), (0, 0, 0, 0), (0, 0, 2, 0))}, {("reject", "AFFINE")}),
        ({"codes": (1, 1), "quaternion": (0, 0, QUARTER)}, {("warn", "AFFINE")}),
        ({"codes": (1, 1), "quaternion": (2, 0, 0)}, {("warn", "AFFINE")}),
        ({"codes": (1, 0), "quaternion": (2, 0, 0)}, {("reject", "AFFINE")}),
        ({"codes": (1, 1), "pixdim": (-1, 1, 1, 2), "quaternion": (0, 1, 0)}, {("reject", "AFFINE")}),
        ({"codes": (1, 0), "pixdim": (1, 1, 0, 1)}, {("reject", "SPACING")}),
        ({"codes": (1, 0), "pixdim": (1, 1, -1, 1)}, {("reject", "SPACING")}),
        ({"codes": (0, 0), "pixdim": (1, NAN, 1, 1)}, {("reject", "SPACING")}),
        ({"codes": (0, 1), "pixdim": (1, 1, NAN, 2)}, {("warn", "SPACING")}),
        ({"codes": (1, 0), "pixdim": (0.5, 1, 1, 2)}, {("warn", "HEADER")}),
        ({"codes": (1, 0), "pixdim": (1, 60, 60, 60)}, {("reject", "SPACING")}),
        ({"codes": (1, 0), "pixdim": (1, 1, 1, 40)}, {("warn", "SPACING")}),
        ({"pixdim": (1, 1, 1, 3)}, {("warn", "SPACING")}),
        ({"pixdim": (1, 1, 1, 3), "codes": (1, 1), "quaternion": (0, 0, 1)}, {("warn", "SPACING"), ("warn", "AFFINE")}),
    ],
)
def test_geometry_is_judged(tmp_path: Path, fields: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert codes(inspect(tmp_path, nifti(VOXELS, **fields))) == expected


def test_a_sheared_affine_is_warned_about(tmp_path: Path) -> None:
    cosine = 0.3
    sform = ((-1, cosine, 0, 0), (0, -((1 - cosine**2) ** 0.5), 0, 0), (0, 0, 2, 0))
    inspection = inspect(tmp_path, nifti(VOXELS, sform=sform))
    assert codes(inspection) == {("warn", "AFFINE")}
    assert "sheared axes (17.5 degrees off)" in said(inspection)


def test_metres_explain_an_implausible_spacing(tmp_path: Path) -> None:
    sform = ((-1e-3, 0, 0, 0), (0, -1e-3, 0, 0), (0, 0, 2e-3, 0))
    inspection = inspect(tmp_path, nifti(VOXELS, sform=sform, pixdim=(1, 1e-3, 1e-3, 2e-3), units=1))
    assert codes(inspection) == {("reject", "SPACING")}
    assert "the header's unit is metres" in said(inspection)
    assert "multiply the affine and pixdim by 1000" in said(inspection)


GEOMETRIES: dict[str, dict[str, Any]] = {
    "sform": {},
    "mirrored sform": {"sform": MIRRORED},
    "qform": {"codes": (1, 0), "quaternion": (0.1, -0.2, 0.3), "qoffset": (3, 4, 5)},
    "qform with qfac -1": {"codes": (2, 0), "quaternion": (0.5, 0.5, 0.5), "pixdim": (-1, 0.7, 0.8, 3)},
    "qform with qfac 0": {"codes": (1, 0), "pixdim": (0, 1, 1, 2)},
    "half turn": {"codes": (1, 0), "quaternion": (0, 1, 0)},
    "no form": {"codes": (0, 0), "pixdim": (1, 0.5, 0.6, 4)},
    "sform and another qform": {"codes": (1, 1), "quaternion": (0, 0, QUARTER)},
    "sform that does not fit pixdim": {"codes": (1, 1), "pixdim": (1, 1, 1, 3), "quaternion": (0, 0, 1)},
    "sform that does not fit pixdim without a qform": {"pixdim": (1, 1, 1.01, 2), "sform": MIRRORED},
    "pixdim with a zero beside a sform": {"pixdim": (1, 1, 0, 2)},
    "pixdim with NaN beside a sform": {"pixdim": (1, NAN, 1, 2)},
    "unknown code": {"codes": (1, 9), "quaternion": (0, 0, 1)},
    "singleton": {"dim": [4, 12, 14, 10, 1], "pixdim": (1, 1, 1, 2, 1)},
    "singletons": {"dim": [5, 12, 14, 10, 1, 1]},
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_affine_is_that_of_the_packages_reader(tmp_path: Path, name: str) -> None:
    from monai_cluster.data.readers import read_volume

    path = write(tmp_path / "item.nii.gz", nifti(VOXELS, **GEOMETRIES[name]))
    assert np.array(inspect_nifti(path, "volume").facts.affine) == pytest.approx(
        read_volume(path).affine.numpy(), abs=1e-5
    )


@pytest.mark.parametrize("codes_of_forms", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_affine_of_an_oblique_image_is_that_of_nibabel(tmp_path: Path, codes_of_forms: tuple[int, int]) -> None:
    fields = {"codes": codes_of_forms, "quaternion": (0.1, 0.2, 0.05), "qoffset": (1, 2, 3), "pixdim": (1, 0.7, 0.7, 3)}
    path = write(tmp_path / "item.nii.gz", nifti(phantom((40, 36)), **fields))  # type: ignore[arg-type]
    affine = nib.load(path).affine
    inspection = inspect_nifti(path, "image")
    assert inspection.facts.affine is not None, said(inspection)
    assert np.array(inspection.facts.affine) == pytest.approx(affine, abs=1e-5)


# values


def test_values_are_judged(tmp_path: Path) -> None:
    floats = VOXELS.astype(np.float32)
    some = floats.copy()
    some[3, 4, 5] = np.nan
    one_hot = np.full_like(VOXELS, -1000)
    one_hot[5, 5, 5] = 3000
    cases: list[tuple[np.ndarray, set[tuple[str, str]]]] = [
        (some, {("warn", "NONFINITE")}),
        (np.full_like(floats, np.nan), {("reject", "NONFINITE")}),
        (np.full_like(VOXELS, -1000), {("reject", "CONSTANT")}),
        (one_hot, {("warn", "CONSTANT")}),
        (floats * np.float32(1e30), {("reject", "RANGE")}),
        (VOXELS.astype(np.int64) << 33, {("warn", "RANGE")}),
    ]
    for values, expected in cases:
        assert codes(inspect(tmp_path, nifti(values))) == expected


def test_sizes_above_the_limits_are_refused_before_they_are_read(tmp_path: Path) -> None:
    limits = Limits(max_decoded_bytes=VOXELS.nbytes - 1)
    assert codes(inspect(tmp_path, nifti(VOXELS), limits=limits)) == {("reject", "TOO_LARGE")}
    picture = nifti(phantom((40, 36)))
    assert codes(inspect(tmp_path, picture, limits=Limits(max_picture_pixels=1000))) == {("reject", "TOO_LARGE")}


def test_what_the_reading_library_refuses_is_refused(tmp_path: Path) -> None:
    # bytes in the place of a value representation that are no text: nibabel fails, although all sizes fit
    inspection = inspect(tmp_path, nifti(VOXELS, extension=extension(32, 2, b"\x10\0\x10\0\xff\xfe\xff\xff")))
    assert ("reject", "HEADER") in codes(inspection)
    assert "nibabel refuses" in said(inspection)


@pytest.mark.shared_data
def test_real_volumes_are_not_warned_about(shared_data: Path) -> None:
    files = sorted(shared_data.glob("unlabeled_volumes/volumes/*.nii.gz"))[:3]
    files += sorted(shared_data.glob("*/imagesTr/*.nii.gz"))[::60]
    assert len(files) > 3
    assert {path.name: said(inspect_nifti(path, "volume")) for path in files} == {path.name: "" for path in files}
