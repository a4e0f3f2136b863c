# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Sound files damaged at random: every damage must end in an inspection, soon, and no cut file may pass."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pydicom.uid import RLELossless

from monai_cluster.integrity.dicom_file import inspect_dicom_image
from monai_cluster.integrity.dicom_series import inspect_series
from monai_cluster.integrity.findings import Inspection
from monai_cluster.integrity.pictures import inspect_picture

from .dicom_phantoms import enhanced, save, save_series, slice_dataset
from .test_pictures import COLOUR, GREY, chunk, encoded

LIES = (0, 1, 0x7FFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
SECONDS = 2.0


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Flip a bit, cut, replace a length, take out or put in a few bytes, or repeat a part."""
    at, result = rng.randrange(len(data) - 4), bytearray(data)
    kind = rng.randrange(6)
    if kind == 0:
        result[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del result[max(1, at) :]
    elif kind == 2:
        shape = rng.choice(("<H", ">H", "<I", ">I"))
        struct.pack_into(shape, result, at, rng.choice(LIES) & (0xFFFF if shape[1] == "H" else 0xFFFFFFFF))
    elif kind == 3:
        del result[at : at + rng.randrange(1, 100)]
    elif kind == 4:
        result[at:at] = rng.randbytes(rng.randrange(1, 60))
    else:
        result[at:at] = result[at : at + rng.randrange(8, 300)]
    return bytes(result)


def lying_chunks(data: bytes, rng: random.Random) -> bytes:
    """A PNG file with one chunk changed, its checksum right again: what a checksum does not find."""
    chunks, at = [], 8
    while at < len(data):
        length = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    which = rng.randrange(len(chunks))
    name, content = chunks[which]
    if content and rng.random() < 0.7:
        chunks[which] = name, damaged(content + bytes(5), rng)[:-5]
    else:
        chunks.insert(which, rng.choice(chunks))
    return data[:8] + b"".join(chunk(*one) for one in chunks)


def lying_lengths(data: bytes, rng: random.Random) -> bytes:
    """A DICOM file one of whose elements (image pixel module, or any explicit one) states another length or value."""
    kinds = (b"US", b"DS", b"UI", b"IS", b"CS", b"OW")
    result, at = bytearray(data), rng.choice([at for at in range(140, len(data) - 8) if data[at : at + 2] in kinds])
    if data[at : at + 2] == b"OW":
        struct.pack_into("<I", result, at + 4, rng.choice(LIES))
    elif rng.random() < 0.5:
        struct.pack_into("<H", result, at + 2, rng.choice(LIES) & 0xFFFF)
    else:
        struct.pack_into("<H", result, at + 4, rng.choice(LIES) & 0xFFFF)
    return bytes(result)


def seeds(folder: Path) -> dict[str, bytes]:
    packed, deflated = slice_dataset(2), slice_dataset(2)
    packed.compress(RLELossless)
    deflated.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    datasets = {"plain": slice_dataset(2), "packed": packed, "deflated": deflated, "enhanced": enhanced()}
    found = {f"{name}.dcm": save(one, folder / "seed.dcm").read_bytes() for name, one in datasets.items()}
    found |= {"grey.png": encoded(GREY), "colour.png": encoded(COLOUR), "grey.bmp": encoded(GREY, "BMP")}
    found |= {"grey.jpg": encoded(GREY, "JPEG"), "progressive.jpg": encoded(COLOUR, "JPEG", progressive=True)}
    found |= {"plain.tif": encoded(GREY, "TIFF"), "lzw.tif": encoded(GREY, "TIFF", compression="tiff_lzw")}
    pages = encoded(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.fromarray(COLOUR)])
    return found | {"pages.tif": pages}


def run(path: Path, data: bytes) -> Inspection:
    path.write_bytes(data)
    started = time.monotonic()
    inspection = inspect_dicom_image(path) if path.suffix == ".dcm" else inspect_picture(path)
    assert time.monotonic() - started < SECONDS
    assert inspection.verdict in ("accept", "warn", "reject")
    return inspection


def mutations(name: str) -> list[Callable[[bytes, random.Random], bytes]]:
    special = {".dcm": [lying_lengths], ".png": [lying_chunks]}.get(Path(name).suffix, [])
    return [damaged, *([] if name == "deflated.dcm" else special)]


NAMES = (
    "plain.dcm packed.dcm deflated.dcm enhanced.dcm grey.png colour.png grey.bmp grey.jpg progressive.jpg plain.tif "
    "lzw.tif pages.tif"
)


@pytest.mark.parametrize("name", NAMES.split())
def test_damaged_files_end_in_an_inspection(tmp_path: Path, name: str) -> None:
    data, path = seeds(tmp_path)[name], tmp_path / name
    sound = run(path, data)
    assert "UNREADABLE" not in {one.code for one in sound.findings}
    refused = 0
    for change in mutations(name):
        for seed in range(12):
            broken = change(data, random.Random(f"{name} {seed}"))
            inspection = run(path, broken)
            refused += inspection.verdict == "reject"
            if len(broken) < len(data) and data.startswith(broken):
                assert inspection.verdict == "reject", f"a cut file was taken: {len(broken)} of {len(data)} bytes"
    assert refused >= 4


def test_a_series_with_a_damaged_slice_ends_in_an_inspection(tmp_path: Path) -> None:
    folder = save_series([slice_dataset(index) for index in range(8)], tmp_path)
    victim = sorted(folder.iterdir())[2]
    data = victim.read_bytes()
    verdicts = set()
    for seed in range(30):
        broken = damaged(data, random.Random(seed))
        victim.write_bytes(broken)
        started = time.monotonic()
        inspection = inspect_series(folder)
        assert time.monotonic() - started < SECONDS
        verdicts.add(inspection.verdict)
        if len(broken) < len(data) and data.startswith(broken):
            assert inspection.verdict != "accept"
    assert "reject" in verdicts
