# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Pictures: what is refused, what is warned about, and that facts say what the package's reader reads."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from monai_cluster.data.readers import PictureReader
from monai_cluster.integrity.limits import Limits
from monai_cluster.integrity.pictures import inspect_picture

from .dicom_phantoms import codes

ROWS, COLUMNS = np.mgrid[0:48, 0:40]
GREY = (128 + 90 * np.sin(COLUMNS / 5) * np.cos(ROWS / 6)).astype(np.uint8)
COLOUR = np.dstack([GREY, 255 - GREY, GREY // 2])
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "BMP": ".bmp"}


def encoded(array: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(stream, kind, **options)
    return stream.getvalue()


def written(folder: Path, data: bytes, suffix: str = ".png") -> Path:
    path = folder / f"picture{suffix}"
    path.write_bytes(data)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG file with one chunk more, after its header."""
    return data[:33] + chunk(name, content) + data[33:]


def as_read(path: Path) -> np.ndarray:
    reader = PictureReader()
    array, _ = reader.get_data(reader.read(path))
    return array


@pytest.mark.parametrize(
    ("kind", "array", "dtype", "options"),
    [
        ("PNG", GREY, "uint8", {}),
        ("PNG", GREY.astype(np.uint16) * 200, "uint16", {}),
        ("PNG", GREY > 128, "bool", {}),
        ("JPEG", GREY, "uint8", {"quality": 90}),
        ("JPEG", GREY, "uint8", {"progressive": True}),
        ("TIFF", GREY, "uint8", {}),
        ("TIFF", GREY.astype(np.uint16) * 200, "uint16", {}),
        ("TIFF", GREY.astype(np.float32) / 7, "float32", {}),
        ("TIFF", GREY.astype(np.int32) - 1000, "int32", {}),
        ("TIFF", GREY, "uint8", {"compression": "tiff_lzw"}),
        ("BMP", GREY, "uint8", {}),
    ],
)
def test_grey_pictures_give_no_finding_and_the_values_of_the_reader(
    tmp_path: Path, kind: str, array: np.ndarray, dtype: str, options: dict[str, Any]
) -> None:
    path = written(tmp_path, encoded(array, kind, **options), SUFFIXES[kind])
    inspection = inspect_picture(path)
    facts, values = inspection.facts, as_read(path)
    assert inspection.findings == []
    assert (facts.kind, facts.shape, facts.dtype) == ("image", values.shape, dtype)
    assert (facts.minimum, facts.maximum) == (values.min(), values.max())
    assert facts.mean == pytest.approx(values.astype(np.float64).mean(), rel=1e-5)
    assert facts.thumbnail.shape == (64, 53)


def test_equal_values_have_equal_hashes_in_every_container(tmp_path: Path) -> None:
    pictures = [(GREY, "PNG"), (GREY, "TIFF"), (GREY, "BMP"), (np.dstack([GREY] * 3), "PNG")]
    pictures.append((np.dstack([GREY] * 3 + [np.full_like(GREY, 255)]), "PNG"))
    found = [inspect_picture(written(tmp_path, encoded(array, kind), SUFFIXES[kind])) for array, kind in pictures]
    assert [one.findings for one in found] == [[]] * 5  # grey stored as colour is grey, and an opaque alpha harmless
    assert len({one.facts.content_hash for one in found}) == 1


@pytest.mark.parametrize("array", [COLOUR, np.dstack([COLOUR, np.full_like(GREY, 255)])])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_colour_is_warned_about_and_read_as_luminance(tmp_path: Path, array: np.ndarray, kind: str) -> None:
    path = written(tmp_path, encoded(array, kind), SUFFIXES[kind])
    inspection = inspect_picture(path)
    assert codes(inspection) == {"COLOUR"}
    assert "luminance" in inspection.findings[0].fix
    assert inspection.facts.mean == pytest.approx(as_read(path).mean(), rel=1e-4)


def test_one_coloured_mark_in_a_grey_picture_is_colour(tmp_path: Path) -> None:
    marked = np.dstack([GREY] * 3)
    marked[5:8, 5:8] = (255, 0, 0)
    assert codes(inspect_picture(written(tmp_path, encoded(marked)))) == {"COLOUR"}


def test_cmyk_is_colour(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG")
    assert codes(inspect_picture(written(tmp_path, data, ".jpg"))) == {"COLOUR"}


def test_palettes_of_colours_are_warned_about_and_of_greys_not(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY // 16).convert("P")
    picture.putpalette([value * 37 % 256 for value in range(768)])
    path = written(tmp_path, encoded(picture))
    assert codes(inspect_picture(path)) == {"PALETTE"}
    assert inspect_picture(path).facts.mean == pytest.approx(as_read(path).mean(), rel=1e-4)
    ramp = Image.fromarray(GREY // 16).convert("P")
    ramp.putpalette([255 - value * 16 % 256 for value in range(256) for _ in range(3)])
    path = written(tmp_path, encoded(ramp))
    assert inspect_picture(path).findings == []
    assert inspect_picture(path).facts.maximum == as_read(path).max()


def test_transparency_is_warned_about(tmp_path: Path) -> None:
    alpha = np.where(COLUMNS < 20, 0, 255).astype(np.uint8)
    assert codes(inspect_picture(written(tmp_path, encoded(np.dstack([GREY] * 3 + [alpha]))))) == {"ALPHA"}
    assert codes(inspect_picture(written(tmp_path, encoded(np.dstack([GREY, alpha]))))) == {"ALPHA"}
    assert codes(inspect_picture(written(tmp_path, encoded(GREY, transparency=7)))) == {"ALPHA"}


def test_sixteen_bits_in_channels_are_warned_about(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + bytes(row) for row in np.repeat(GREY, 6, axis=1).astype(np.uint8))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 48, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert codes(inspect_picture(written(tmp_path, data))) == {"DTYPE"}


def test_an_exif_turn_is_warned_about_and_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG"):
        path = written(tmp_path, encoded(GREY, kind, exif=exif), SUFFIXES[kind])
        inspection = inspect_picture(path)
        assert codes(inspection) == {"ORIENTATION"}
        assert inspection.facts.shape == as_read(path).shape == (40, 48)
    exif[0x0112] = 1
    assert inspect_picture(written(tmp_path, encoded(GREY, "JPEG", exif=exif), ".jpg")).findings == []


def test_a_quarter_turn_of_a_tiff_is_refused_and_a_half_turn_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    quarter = inspect_picture(written(tmp_path, encoded(GREY, "TIFF", exif=exif), ".tif"))
    assert codes(quarter, "reject") == {"ORIENTATION"}
    exif[0x0112] = 3
    path = written(tmp_path, encoded(GREY, "TIFF", exif=exif), ".tif")
    inspection = inspect_picture(path)
    assert inspection.verdict == "warn"
    assert codes(inspection) == {"ORIENTATION"}
    upright = inspect_picture(written(tmp_path, encoded(GREY[::-1, ::-1], "TIFF"), ".tif"))
    assert inspection.facts.content_hash == upright.facts.content_hash


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".bmp", ".dat"])
def test_a_wrong_suffix_is_warned_about(tmp_path: Path, suffix: str) -> None:
    inspection = inspect_picture(written(tmp_path, encoded(GREY), suffix))
    assert codes(inspection) == {"CONTAINER"}
    assert inspection.verdict == "warn"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "EMPTY"),
        (b"just some text\n" * 30, "NOT_AN_IMAGE"),
        (b"<html><body>404</body></html>" + b" " * 600, "CONTAINER"),
        (b"%PDF-1.7" + bytes(600), "CONTAINER"),
        (bytes(128) + b"DICM" + bytes(600), "CONTAINER"),
        (encoded(np.full((48, 40), 7, np.uint8)), "CONSTANT"),
        (encoded(GREY[:4, :4]), "TOO_SMALL"),
        (encoded(GREY)[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 48, 8, 0, 0, 0, 0)), "HEADER"),
        (encoded(GREY)[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)), "TOO_LARGE"),
        (encoded(GREY)[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 48, 5, 0, 0, 0, 0)), "HEADER"),
        (with_chunk(encoded(GREY), b"HOLD", b"unknown and critical"), "HEADER"),
        (encoded(GREY)[:8] + encoded(GREY)[33:], "HEADER"),  # no header
    ],
)
def test_what_is_no_sound_picture_is_refused(tmp_path: Path, data: bytes, code: str) -> None:
    assert codes(inspect_picture(written(tmp_path, data)), "reject") >= {code}


def test_values_beyond_floats_are_refused(tmp_path: Path) -> None:
    half = np.where(COLUMNS % 3 > 0, np.nan, GREY).astype(np.float32)
    assert codes(inspect_picture(written(tmp_path, encoded(half, "TIFF"), ".tif"))) == {"NONFINITE"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.97])
def test_a_cut_picture_is_refused_wherever_it_is_cut(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(GREY, kind)
    for lenient in (False, True):  # whatever the process has told Pillow
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
        try:
            inspection = inspect_picture(written(tmp_path, data[: int(len(data) * share)], SUFFIXES[kind]))
            assert lenient is ImageFile.LOAD_TRUNCATED_IMAGES
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        assert codes(inspection, "reject") == {"TRUNCATED"}


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_that_lost_its_middle_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    data = encoded(noise, "JPEG", **options)
    middle = len(data) * 2 // 3
    for damaged in (data[:middle] + b"\xff\xd9", data[:middle] + data[middle + 600 :]):
        found = codes(inspect_picture(written(tmp_path, damaged, ".jpg")), "reject")
        assert found <= {"TRUNCATED", "CORRUPT"}
        assert found


def test_a_progressive_jpeg_without_its_last_scan_is_refused(tmp_path: Path) -> None:
    data = encoded(GREY, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    inspection = inspect_picture(written(tmp_path, data[:last] + b"\xff\xd9", ".jpg"))
    assert codes(inspection) == {"TRUNCATED"}


def test_a_few_stray_bytes_in_a_jpeg_are_warned_about(tmp_path: Path) -> None:
    data = encoded(GREY, "JPEG")
    assert codes(inspect_picture(written(tmp_path, data[:-2] + b"\1\2\3" + data[-2:], ".jpg")), "warn") == {"CORRUPT"}
    assert codes(inspect_picture(written(tmp_path, data[:-2] + b"\1" * 99 + data[-2:], ".jpg")), "reject") == {
        "CORRUPT"
    }


def test_every_png_checksum_is_looked_at(tmp_path: Path) -> None:
    sound = with_chunk(encoded(GREY), b"teXt", b"an ancillary chunk that Pillow skips")
    assert inspect_picture(written(tmp_path, sound)).findings == []
    for at in (45, 20, len(sound) - 30):  # ancillary, header, pixels
        damaged = sound[:at] + bytes([sound[at] ^ 0x20]) + sound[at + 1 :]
        assert inspect_picture(written(tmp_path, damaged)).verdict == "reject"


def test_png_pixels_must_be_as_many_as_declared(tmp_path: Path) -> None:
    def png(rows: int) -> bytes:
        pixels = b"".join(b"\0" + bytes(row) for row in np.resize(GREY, (rows, 40)))
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 48, 8, 0, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")

    assert inspect_picture(written(tmp_path, png(48))).findings == []
    assert codes(inspect_picture(written(tmp_path, png(40)))) == {"TRUNCATED"}
    assert codes(inspect_picture(written(tmp_path, png(60)))) == {"HEADER"}


def test_interlaced_pngs_are_whole(tmp_path: Path) -> None:
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    pixels = b"".join(b"\0" + bytes(row) for x, y, dx, dy in passes for row in GREY[y::dy, x::dx])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 48, 8, 0, 0, 0, 1))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    inspection = inspect_picture(written(tmp_path, data))
    assert inspection.findings == []
    assert inspection.facts.content_hash == inspect_picture(written(tmp_path, encoded(GREY))).facts.content_hash


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_bytes_after_the_end_are_warned_about(tmp_path: Path, kind: str) -> None:
    inspection = inspect_picture(written(tmp_path, encoded(GREY, kind) + b"PK\3\4 hidden", SUFFIXES[kind]))
    assert codes(inspection) == {"TRAILING"}
    assert inspection.verdict == "warn"


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for kind in ("TIFF", "PNG"):
        data = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
        inspection = inspect_picture(written(tmp_path, data, SUFFIXES[kind]))
        assert codes(inspection) == {"NDIM"}
        assert "2 pages" in inspection.findings[0].found


def test_a_tiff_whose_directories_loop_is_refused(tmp_path: Path) -> None:
    data = bytearray(encoded(GREY, "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    assert codes(inspect_picture(written(tmp_path, bytes(data), ".tif"))) == {"HEADER"}


def test_a_picture_listed_as_a_volume_is_refused(tmp_path: Path) -> None:
    assert codes(inspect_picture(written(tmp_path, encoded(GREY)), "volume"), "reject") == {"NDIM"}


def texts() -> dict[str, tuple[bytes, str]]:
    """Files that name somebody, each in another place."""
    name = "POE^EDGAR MRN7766554"
    info, packed, international = (PngImagePlugin.PngInfo() for _ in range(3))
    info.add_text("PatientName", name)
    packed.add_text("Comment", name, zip=True)
    international.add_itxt("Comment", name, zip=True)
    exif = Image.Exif()
    exif[270] = name
    return {
        "tEXt": (encoded(GREY, pnginfo=info), ".png"),
        "zTXt": (encoded(GREY, pnginfo=packed), ".png"),
        "iTXt": (encoded(GREY, pnginfo=international), ".png"),
        "EXIF": (encoded(GREY, "JPEG", exif=exif), ".jpg"),
        "comment": (encoded(GREY, "JPEG", comment=name), ".jpg"),
        "ImageDescription": (encoded(GREY, "TIFF", description=name), ".tif"),
    }


@pytest.mark.parametrize("place", ["tEXt", "zTXt", "iTXt", "EXIF", "comment", "ImageDescription"])
def test_identifiers_in_texts_are_warned_about_and_never_quoted(tmp_path: Path, place: str) -> None:
    data, suffix = texts()[place]
    inspection = inspect_picture(written(tmp_path, data, suffix))
    assert codes(inspection) == {"PHI"}
    assert "POE" not in str(inspection.findings[0])
    assert "7766554" not in str(inspection.findings[0])


def test_a_place_is_an_identifier(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    inspection = inspect_picture(written(tmp_path, encoded(GREY, "JPEG", exif=exif), ".jpg"))
    assert codes(inspection) == {"PHI"}
    assert "GPS" in inspection.findings[0].found


def test_what_programs_write_about_themselves_identifies_nobody(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("date:create", "2019-05-05T09:41:12+00:00")
    info.add_text("Software", "matplotlib version 3.8, https://matplotlib.org/")
    assert inspect_picture(written(tmp_path, encoded(GREY, pnginfo=info))).findings == []


def test_limits_come_before_decoding(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        path = written(tmp_path, encoded(GREY, kind), SUFFIXES[kind])
        assert codes(inspect_picture(path, limits=Limits(max_picture_pixels=1919))) == {"TOO_LARGE"}
        assert inspect_picture(path, limits=Limits(max_picture_pixels=1920)).findings == []


def test_a_progressive_jpeg_that_needs_much_memory_is_refused(tmp_path: Path) -> None:
    data = bytearray(encoded(COLOUR, "JPEG", progressive=True))
    at = data.index(b"\xff\xc2")
    struct.pack_into(">HH", data, at + 5, 9900, 9900)
    assert codes(inspect_picture(written(tmp_path, bytes(data), ".jpg"))) == {"TOO_LARGE"}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["unlabeled_images", "cxr_lung_boxes", "brain_tumor_det2d"])
def test_real_pictures_are_accepted(shared_data: Path, name: str) -> None:
    files = sorted(path for path in (shared_data / name / "images").rglob("*") if path.is_file())[::12]
    assert len(files) > 3
    assert [one for path in files for one in inspect_picture(path).findings] == []
