# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One DICOM file: what is refused, what is warned about, and that decoded values agree with SimpleITK."""

from __future__ import annotations

import os
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from monai_cluster.integrity.dicom_file import inspect_dicom_image
from monai_cluster.integrity.dicom_headers import read_header
from monai_cluster.integrity.findings import InputRefusedError
from monai_cluster.integrity.limits import Limits

from .dicom_phantoms import body, codes, enhanced, save, slice_dataset

PIXELS = struct.pack("<HH", 0x7FE0, 0x0010)
SEQUENCE = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
    "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def written(tmp_path: Path, **header: Any) -> Path:
    return save(slice_dataset(2, **header), tmp_path / "a.dcm")


def changed(tmp_path: Path, change: Any, **header: Any) -> Path:
    path = written(tmp_path, **header)
    path.write_bytes(change(path.read_bytes()))
    return path


def itk_values(path: Path) -> np.ndarray:
    image: np.ndarray = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
    return image


def compressed(tmp_path: Path, compressor: str) -> Path:
    image = sitk.GetImageFromArray(body()[2].astype(np.int16))
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    path = tmp_path / f"{compressor}.dcm"
    writer.SetFileName(str(path))
    writer.Execute(image)
    return path


def test_a_sound_file_gives_no_finding_and_the_facts_of_simpleitk(tmp_path: Path) -> None:
    path = written(tmp_path)
    inspection = inspect_dicom_image(path, "image")
    values = itk_values(path)
    assert inspection.findings == []
    facts = inspection.facts
    assert (facts.kind, facts.shape, facts.spacing, facts.modality) == ("image", (24, 20), (0.7, 0.9), "CT")
    assert (facts.minimum, facts.maximum) == (values.min(), values.max())
    assert facts.mean == pytest.approx(values.mean())
    assert facts.thumbnail.shape == (64, 53)
    assert facts.num_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ({"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}, "unsigned"),
        ({"BitsStored": 12, "HighBit": 11}, "signed"),
        ({"RescaleSlope": 2.5, "RescaleIntercept": 7}, "scaled"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "inverted"),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": 0, "BitsStored": 14, "HighBit": 13},
            "both",
        ),
    ],
)
def test_values_agree_with_simpleitk(tmp_path: Path, header: dict[str, Any], shown: str) -> None:
    path = written(tmp_path, **header)
    facts, values = inspect_dicom_image(path).facts, itk_values(path).astype(np.float64)
    assert facts.minimum == pytest.approx(values.min())
    assert facts.maximum == pytest.approx(values.max())
    assert facts.mean == pytest.approx(values.mean())


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_pixels_hash_as_uncompressed_ones(tmp_path: Path, compressor: str) -> None:
    path = compressed(tmp_path, compressor)
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID.is_compressed
    plain = slice_dataset(2, Modality=dataset.Modality, RescaleSlope=None, RescaleIntercept=None)
    one, other = inspect_dicom_image(path), inspect_dicom_image(save(plain, tmp_path / "plain.dcm"))
    assert codes(one) == set()
    assert (one.facts.minimum, one.facts.maximum) == (other.facts.minimum, other.facts.maximum)
    assert one.facts.mean == pytest.approx(other.facts.mean)


def test_run_length_pixels_hash_as_uncompressed_ones(tmp_path: Path) -> None:
    dataset = slice_dataset(2)
    dataset.compress(RLELossless)
    packed = inspect_dicom_image(save(dataset, tmp_path / "rle.dcm"))
    assert codes(packed) == set()
    assert packed.facts.content_hash == inspect_dicom_image(written(tmp_path)).facts.content_hash


def test_big_endian_and_deflated_files_hash_as_little_endian_ones(tmp_path: Path) -> None:
    expected = inspect_dicom_image(written(tmp_path)).facts.content_hash
    for uid in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"):
        dataset = slice_dataset(2)
        dataset.file_meta.TransferSyntaxUID = uid
        if uid.endswith("1.2.2"):
            dataset.PixelData = body()[2].astype(">i2").tobytes()
        inspection = inspect_dicom_image(save(dataset, tmp_path / "other.dcm"))
        assert codes(inspection) == set()
        assert inspection.facts.content_hash == expected


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path, share: float) -> None:
    for path in (written(tmp_path), compressed(tmp_path, "JPEG")):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        assert codes(inspect_dicom_image(path), "reject") <= {"TRUNCATED", "NOT_AN_IMAGE", "NO_PIXELS"}
        assert inspect_dicom_image(path).verdict == "reject"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: b"not DICOM at all\n" * 40, "NOT_AN_IMAGE"),
        (lambda data: b"", "EMPTY"),
        (lambda data: data[132:], "HEADER"),  # no preamble
        (lambda data: b"MZ" + data[2:], "HEADER"),  # a programme in the preamble
        (lambda data: data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0", 1), "CODEC"),
        (lambda data: data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1), "CODEC"),
        (lambda data: data.replace(b"CS\x02\0CT", b"QQ\x02\0CT"), "HEADER"),  # no such value representation
        (lambda data: data[: data.index(PIXELS)] + SEQUENCE * 4000 + SEQUENCE_END * 4000 + PIXELS, "HEADER"),
        (lambda data: data[: data.index(PIXELS)] + SEQUENCE * 3 + data[data.index(PIXELS) :], "TRUNCATED"),
        (lambda data: data[: data.index(PIXELS)] * 1 + data[data.index(PIXELS) :] * 2, "HEADER"),  # pixels twice
    ],
)
def test_broken_structure_is_refused(tmp_path: Path, change: Any, code: str) -> None:
    assert codes(inspect_dicom_image(changed(tmp_path, change)), "reject") == {code}


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"PixelData": None}, "NO_PIXELS"),
        ({"Rows": None}, "HEADER"),
        ({"Rows": 0}, "HEADER"),
        ({"Rows": 65535, "Columns": 65535}, "TRUNCATED"),
        ({"Rows": 12}, "HEADER"),  # fewer rows than there are pixels for
        ({"NumberOfFrames": 10_000_000}, "TRUNCATED"),
        ({"NumberOfFrames": -1}, "HEADER"),
        ({"BitsStored": 17}, "HEADER"),
        ({"HighBit": 11}, "HEADER"),
        ({"BitsAllocated": 12}, "DTYPE"),
        ({"SamplesPerPixel": 3}, "HEADER"),
        ({"PhotometricInterpretation": "SECRET"}, "DTYPE"),
        ({"PixelData": None, "FloatPixelData": np.zeros((24, 20), "<f4").tobytes()}, "DTYPE"),
        ({"Modality": "SEG"}, "NOT_AN_IMAGE"),
        ({"Modality": "RTSTRUCT"}, "NOT_AN_IMAGE"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.22"}, "NOT_AN_IMAGE"),  # enhanced SR
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, "NOT_AN_IMAGE"),  # presentation state
        ({"RescaleSlope": 0}, "SCALE"),
        ({"PixelSpacing": [900.0, 900.0]}, "SPACING"),
        ({"PixelData": bytes(960)}, "CONSTANT"),
    ],
)
def test_lying_headers_are_refused(tmp_path: Path, header: dict[str, Any], code: str) -> None:
    assert code in codes(inspect_dicom_image(written(tmp_path, **header)), "reject")


def test_a_small_picture_is_refused(tmp_path: Path) -> None:
    pixels = np.arange(16, dtype="<i2").tobytes()
    path = written(tmp_path, Rows=4, Columns=4, PixelData=pixels)
    assert codes(inspect_dicom_image(path), "reject") == {"TOO_SMALL"}


def test_limits_are_applied_to_declared_sizes(tmp_path: Path) -> None:
    assert codes(inspect_dicom_image(written(tmp_path), limits=Limits(max_picture_pixels=100))) == {"TOO_LARGE"}


def deflated(data: bytes, extra: int) -> bytes:
    """The file with its data set deflated, and ``extra`` zeros of pixels more."""
    start = 144 + struct.unpack("<I", data[140:144])[0]
    old, new = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    meta = data[:start].replace(struct.pack("<H", len(old)) + old, struct.pack("<H", len(new)) + new, 1)
    meta = meta[:140] + struct.pack("<I", len(meta) - 144) + meta[144:]
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    parts = [packer.compress(data[start:])] + [packer.compress(bytes(1 << 20)) for _ in range(extra >> 20)]
    return meta + b"".join(parts) + packer.flush()


def test_a_deflate_bomb_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda data: deflated(data, 320 << 20))
    assert path.stat().st_size < 4_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert codes(inspect_dicom_image(path)) == {"TOO_LARGE"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB


def test_a_cut_or_corrupt_deflate_stream_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda data: deflated(data, 0)[:-40])
    assert codes(inspect_dicom_image(path)) == {"TRUNCATED"}
    path = changed(tmp_path, lambda data: deflated(data, 0)[:400] + b"\xff" * 300)
    assert codes(inspect_dicom_image(path)) <= {"CORRUPT", "TRUNCATED", "HEADER"}
    assert inspect_dicom_image(path).verdict == "reject"


def test_a_code_stream_that_disagrees_with_the_header_is_refused(tmp_path: Path) -> None:
    path = compressed(tmp_path, "JPEG")
    dataset = pydicom.dcmread(path)
    dataset.Rows = 48
    dataset.save_as(path)
    assert codes(inspect_dicom_image(path)) == {"HEADER"}
    dataset.Rows = 24
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    dataset.save_as(path)
    assert codes(inspect_dicom_image(path)) == {"CODEC"}


def test_a_cut_code_stream_is_refused(tmp_path: Path) -> None:
    path = compressed(tmp_path, "JPEG")
    dataset = pydicom.dcmread(path)
    stream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    for cut in (stream[: len(stream) // 2], stream[: len(stream) // 2] + b"\xff\xd9"):
        dataset.PixelData = pydicom.encaps.encapsulate([cut])
        dataset.save_as(path)
        assert codes(inspect_dicom_image(path), "reject") <= {"TRUNCATED", "CODEC"}
        assert inspect_dicom_image(path).verdict == "reject"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda runs: runs[:-30], "TRUNCATED"),
        (lambda runs: struct.pack("<I", 3) + runs[4:], "CODEC"),
        (lambda runs: runs[:4] + struct.pack("<I", 9999) + runs[8:], "CODEC"),
        (lambda runs: runs[:64] + b"\x81\0", "TRUNCATED"),
    ],
)
def test_broken_run_length_data_are_refused(tmp_path: Path, change: Any, code: str) -> None:
    dataset = slice_dataset(2)
    dataset.compress(RLELossless)
    stream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = pydicom.encaps.encapsulate([change(stream)])
    found = codes(inspect_dicom_image(save(dataset, tmp_path / "rle.dcm")), "reject")
    assert found <= {code, "CODEC"}
    assert found


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "PHOTOMETRIC"),
        ({"RescaleSlope": None}, "SCALE"),
        ({"RescaleSlope": None, "RescaleIntercept": None, "Modality": "PT"}, "SCALE"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE"),
        ({"PixelData": body()[2].tobytes() + bytes(10)}, None),
    ],
)
def test_doubtful_meaning_is_warned_about(tmp_path: Path, header: dict[str, Any], code: str | None) -> None:
    inspection = inspect_dicom_image(written(tmp_path, **header))
    assert codes(inspection, "reject") == set()
    assert codes(inspection, "warn") == ({code} if code else set())


def test_a_magnetic_resonance_image_needs_no_rescale(tmp_path: Path) -> None:
    path = written(tmp_path, RescaleSlope=None, RescaleIntercept=None, Modality="MR")
    assert inspect_dicom_image(path).findings == []


def test_colour_is_warned_about_and_read_as_luminance(tmp_path: Path) -> None:
    pixels = np.stack([np.arange(480), np.arange(480)[::-1], np.full(480, 9)], axis=1) % 251
    path = written(
        tmp_path,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelData=pixels.astype(np.uint8).tobytes(),
        Modality="OT",
        RescaleSlope=None,
        RescaleIntercept=None,
    )
    inspection = inspect_dicom_image(path)
    assert codes(inspection) == {"DTYPE"}
    assert inspection.verdict == "warn"
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    assert inspection.facts.mean == pytest.approx(grey.mean(), abs=1e-3)


def test_bytes_after_the_last_element_are_warned_about(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda data: data + b"more" * 5)
    assert codes(inspect_dicom_image(path)) == {"TRAILING"}


def test_tags_out_of_order_are_warned_about(tmp_path: Path) -> None:
    def swapped(data: bytes) -> bytes:
        at = data.index(struct.pack("<HH2sH", 0x28, 0x10, b"US", 2))
        return data[:at] + data[at + 10 : at + 20] + data[at : at + 10] + data[at + 20 :]

    inspection = inspect_dicom_image(changed(tmp_path, swapped))
    assert codes(inspection) == {"HEADER"}
    assert inspection.verdict == "warn"


@pytest.mark.parametrize(
    "header",
    [
        {"PatientName": "MEIER^ANNA"},
        {"PatientName": "Meier"},
        {"PatientID": "MRN0042731"},
        {"PatientID": "123-45-6789"},
        {"PatientBirthDate": "19551231"},
        {"AccessionNumber": "8812345678"},
        {"OtherPatientIDs": "0042731"},
        {"BurnedInAnnotation": "YES"},
        {"ImageComments": "MEIER^ANNA dob 31.12.1955"},
        {"PatientAddress": "Hauptstrasse 1"},
        {"PatientName": "MEIER^ANNA", "PatientIdentityRemoved": "YES"},
    ],
)
def test_identifiers_are_warned_about_and_never_quoted(tmp_path: Path, header: dict[str, str]) -> None:
    inspection = inspect_dicom_image(written(tmp_path, **header))
    assert codes(inspection) == {"PHI"}
    told = " ".join(str(one) for one in inspection.findings)
    assert not any(value in told for value in header.values() if value != "YES")


@pytest.mark.parametrize(
    "header",
    [
        {"PatientName": ""},
        {"PatientName": "Anonymous", "PatientID": "sub-0042"},
        {"PatientName": "LIDC-IDRI-0314", "PatientID": "LIDC-IDRI-0314"},
        {"PatientName": "Jane_Doe", "PatientID": "02", "PatientBirthDate": "19660101"},
        {"PatientName": "patient^007", "PatientID": "9f86d081884c7d659a2feaa0c55ad015"},
        {"PatientID": "8812345678", "AccessionNumber": "2819497684894126", "PatientIdentityRemoved": "YES"},
        {"ImageComments": "Removed for HIPAA compliance", "StudyDescription": "Thorax^ROUTINE (Adult)"},
    ],
)
def test_de_identified_headers_are_not_warned_about(tmp_path: Path, header: dict[str, str]) -> None:
    assert inspect_dicom_image(written(tmp_path, **header)).findings == []


def test_an_enhanced_file_becomes_a_volume(tmp_path: Path) -> None:
    path = save(enhanced(), tmp_path / "enhanced.dcm")
    inspection = inspect_dicom_image(path)
    assert codes(inspection) == {"NDIM"}  # the package reads one frame per file
    assert inspection.verdict == "warn"
    assert inspection.facts.shape == (20, 24, 8)
    assert inspection.facts.spacing == pytest.approx((0.9, 0.7, 2.5))
    assert inspection.facts.minimum == body().min() - 1024
    assert codes(inspect_dicom_image(path, "image"), "reject") == {"NDIM"}


def test_frames_that_are_not_described_are_refused(tmp_path: Path) -> None:
    short = enhanced()
    short.PerFrameFunctionalGroupsSequence = short.PerFrameFunctionalGroupsSequence[:5]
    assert codes(inspect_dicom_image(save(short, tmp_path / "a.dcm")), "reject") == {"HEADER"}
    film = slice_dataset(0, NumberOfFrames=8, PixelData=body().tobytes())
    assert codes(inspect_dicom_image(save(film, tmp_path / "b.dcm")), "reject") == {"ORIENTATION"}


def test_compressed_frames_need_as_many_fragments(tmp_path: Path) -> None:
    dataset = enhanced()
    dataset.compress(RLELossless)
    good = save(dataset, tmp_path / "a.dcm")
    plain = save(enhanced(), tmp_path / "b.dcm")
    assert inspect_dicom_image(good).facts.content_hash == inspect_dicom_image(plain).facts.content_hash
    frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=8))
    dataset.PixelData = pydicom.encaps.encapsulate(frames[:5])
    assert codes(inspect_dicom_image(save(dataset, tmp_path / "c.dcm")), "reject") == {"TRUNCATED"}


def test_a_single_slice_is_no_volume(tmp_path: Path) -> None:
    assert codes(inspect_dicom_image(written(tmp_path), "volume"), "reject") == {"NDIM"}


def test_pipes_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.dcm")
    assert codes(inspect_dicom_image(tmp_path / "pipe.dcm")) == {"NOT_A_FILE"}
    assert codes(inspect_dicom_image(tmp_path)) == {"NOT_A_FILE"}
    assert codes(inspect_dicom_image(tmp_path / "none.dcm")) == {"MISSING"}


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: Any) -> None:
    paths = (compressed(tmp_path, "JPEG"), written(tmp_path, PatientBirthDate="not a date", NumberOfFrames="1"))
    recwarn.clear()
    for path in paths:
        data = path.read_bytes()
        for at in range(len(data) - 200, len(data) - 20, 30):
            path.write_bytes(data[:at] + b"\x55" + data[at + 1 :])
            inspect_dicom_image(path)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert len(recwarn) == 0


def test_a_header_is_read_without_pixels(tmp_path: Path) -> None:
    header = read_header(written(tmp_path))
    assert isinstance(header, Dataset)
    assert (header.Rows, header.Columns) == (24, 20)
    assert "PixelData" not in header
    with pytest.raises(InputRefusedError, match="not DICOM"):
        read_header(changed(tmp_path, lambda data: b"%PDF-1.4" * 99))
