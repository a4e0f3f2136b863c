# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint as torch.save writes it (a zip of one pickle and one file per storage), judged without loading it."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from .archives import check_members, open_zip, read_members
from .byte_stream import refuse
from .findings import Inspection
from .identifiers import warn_of_identifiers
from .limits import Limits
from .pickle_scan import FIX, RULE, StoredValues, scan_pickle
from .safetensors_files import BITS, count_nonfinite

__all__ = ["check_torch_zip"]

MAX_PICKLE_BYTES = 32 * 2**20  # the pickle of ten thousand tensors has 2 MiB
PART = 16 * 2**20
PLAIN_MEMBERS = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")


def check_torch_zip(path: str | os.PathLike[str], limits: Limits, inspection: Inspection) -> None:
    """Judge members, checksums, the pickle's instructions and the values.

    Raises:
        InputRefusedError: PICKLE, TRUNCATED, CORRUPT, CONTAINER and what ``open_regular`` raises.
    """
    inspection.facts.num_bytes = os.path.getsize(path)
    with open_zip(path) as archive:
        members = archive.infolist()
        check_members(members, inspection.facts.num_bytes, limits, inspection)
        if inspection.verdict == "reject":
            return
        folder = _folder(members)
        data = _pickle(archive, folder, inspection)
        stored = {} if data is None else scan_pickle(data)
        read_members(archive, inspection)
        if any(one.severity == "reject" for one in inspection.findings):
            return
        _check_storages(archive, folder, stored, inspection)


def _folder(members: list[zipfile.ZipInfo]) -> str:
    """The one folder that all members lie in."""
    pickles = [one.filename for one in members if one.filename.endswith(".pkl")]
    if len(pickles) != 1 or pickles[0].count("/") != 1 or not pickles[0].endswith("/data.pkl"):
        found = f"{len(pickles)} pickles instead of the one of a checkpoint (TorchScript runs code and is refused)"
        raise refuse("PICKLE", RULE, found, FIX)
    folder = pickles[0].removesuffix("data.pkl")
    for one in members:
        inside = one.filename.removeprefix(folder)
        if inside in PLAIN_MEMBERS or inside == "" or inside.startswith("data/"):
            continue
        found = "members that no checkpoint has (TorchScript or another format, refused)"
        raise refuse("PICKLE", RULE, found, FIX)
    return folder


def _pickle(archive: zipfile.ZipFile, folder: str, inspection: Inspection) -> bytes | None:
    size = archive.getinfo(f"{folder}data.pkl").file_size
    if size > MAX_PICKLE_BYTES:
        found = f"a pickle of {size} bytes, the limit is {MAX_PICKLE_BYTES}"
        inspection.reject("TOO_LARGE", RULE, found, "ask for the weights as safetensors")
        return None
    try:
        data = archive.read(f"{folder}data.pkl")
    except Exception:  # zipfile raises many types for malformed members
        raise refuse("CORRUPT", "members must be whole", "a pickle that cannot be read (corrupt)", FIX) from None
    texts = data.decode("utf-8", errors="replace").translate(dict.fromkeys(range(32), " "))
    warn_of_identifiers([texts], "the texts of a checkpoint", inspection)
    return data


def _check_storages(
    archive: zipfile.ZipFile, folder: str, stored: dict[str, StoredValues], inspection: Inspection
) -> None:
    swapped = f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") == b"big"
    bad = total = 0
    for key, values in stored.items():
        try:
            member = archive.getinfo(f"{folder}data/{key}")
        except KeyError:
            raise refuse("TRUNCATED", RULE, "a storage without its file (incomplete archive)", FIX) from None
        expected = values.count * BITS[values.dtype] // 8
        if member.file_size < expected:
            found = f"{member.file_size} bytes of a storage where {expected} are expected (truncated)"
            raise refuse("TRUNCATED", RULE, found, FIX)
        with archive.open(member) as file:
            while part := file.read(PART):
                count, size = count_nonfinite(np.frombuffer(part, np.uint8), values.dtype, swapped)
                bad, total = bad + count, total + size
    if bad:
        rule = "weights must be finite"
        inspection.reject(
            "NONFINITE", rule, f"{bad} of {total} values NaN or infinite", "train again with a lower rate"
        )
