# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What a worker does: inspect one candidate with its label, group the DICOM files of a folder, or inspect a list."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
from PIL import Image

from .byte_stream import open_regular
from .dicom_file import inspect_dicom_image
from .dicom_headers import content_name
from .dicom_series import SeriesFiles, SeriesGroup, group_series, inspect_series
from .findings import Facts, InputRefusedError, Inspection
from .geometry import same_grid
from .item_boxes import check_item_boxes
from .items import inspect_item
from .limits import Limits
from .lists import inspect_datalist
from .pairs import inspect_pair
from .walk import file_suffix

__all__ = ["GRID", "PRELOAD", "answer"]

PRELOAD = ("monai_cluster.integrity.candidate_inspection",)
GRID = 32  # px of the square that is kept of every picture to compare pictures
SAME_CHANNEL = 0.1  # voxels that the grids of two channels may lie apart


def answer(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Answer one request of the check.

    ``{"do": "inspect", "images", "series", "kind", "label", "num_classes", "boxes"}`` gives facts, findings, pictures;
    ``{"do": "group", "files"}`` gives groups of indices into ``files``; ``{"do": "list", "path"}`` gives findings.
    """
    if request["do"] == "group":
        return group(request["files"], limits)
    if request["do"] == "list":
        return described(inspect_datalist(request["path"], limits=limits, read_items=False))
    return described(_inspect(request, limits))


def _inspect(request: dict[str, Any], limits: Limits) -> Inspection:
    images, label = request["images"], request["label"]
    if request["series"]:
        inspection = inspect_series(images[0] if len(images) == 1 and os.path.isdir(images[0]) else images, limits)
    else:
        inspection = inspect_item(images[0], request["kind"], limits)
        for number, image in enumerate(images[1:], start=2):
            _add_channel(inspection, inspect_item(image, request["kind"], limits), number)
    if label is not None:
        pair = inspect_pair(images[0], label, request["num_classes"], limits, image_inspection=inspection)
        inspection.findings += [one for one in pair.findings if one not in inspection.findings]
        inspection.facts.num_bytes += pair.facts.num_bytes
    if request.get("boxes") is not None:
        check_item_boxes(request["boxes"]["box"], request["boxes"].get("box_label"), inspection)
    return inspection


def _add_channel(whole: Inspection, channel: Inspection, number: int) -> None:
    """A further channel must lie on the grid of the first; its findings say which channel they are about."""
    whole.findings += [replace(one, found=f"{one.found} (channel {number})") for one in channel.findings]
    first, other = whole.facts, channel.facts
    first.num_bytes += other.num_bytes
    first.num_files += other.num_files
    rule, fix = "the channels of an item must lie on one grid", "resample one to the other"
    if first.shape is None or other.shape is None:
        return
    if first.shape != other.shape:
        whole.reject("GEOMETRY", rule, f"shapes {first.shape} and {other.shape} of channels 1 and {number}", fix)
    elif first.affine is not None and other.affine is not None:
        shape = (*first.shape, 1)[:3]
        distance = same_grid(np.array(first.affine), np.array(other.affine), shape, SAME_CHANNEL) * SAME_CHANNEL
        if not distance <= SAME_CHANNEL:
            found = f"affines that do not match, up to {distance:.3g} voxels apart (channels 1 and {number})"
            whole.reject("GEOMETRY", rule, found, fix)


def described(inspection: Inspection) -> dict[str, Any]:
    """An inspection as JSON: ``facts`` and ``findings``; with a picture also ``grid``, ``thumbnail`` and ``sides``."""
    facts = {one.name: getattr(inspection.facts, one.name) for one in fields(Facts) if one.name != "thumbnail"}
    found: dict[str, Any] = {
        "facts": {name: _plain(value) for name, value in facts.items()},
        "findings": [asdict(one) for one in dict.fromkeys(inspection.findings)],
    }
    picture = inspection.facts.thumbnail
    if picture is not None:
        grey = Image.fromarray(np.ascontiguousarray(picture, dtype=np.uint8))
        file = io.BytesIO()
        grey.save(file, format="png")
        square = np.asarray(grey.resize((GRID, GRID), Image.Resampling.BOX))
        found |= {
            "sides": list(grey.size),
            "grid": base64.b64encode(square.tobytes()).decode(),
            "thumbnail": base64.b64encode(file.getvalue()).decode(),
        }
    return found


def _plain(value: Any) -> Any:
    """What JSON can hold; non-finite numbers become None."""
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def group(files: Sequence[str], limits: Limits) -> dict[str, Any]:
    """Group DICOM files into series, by their indices in ``files``.

    Returns:
        ``groups``: dictionaries with ``files``, ``placed`` (whether slices have positions), ``frames``, ``localiser``,
        ``patient`` and ``series``; ``broken``: index and findings of files that are DICOM, or say so by their suffix,
        and cannot be used; ``skipped``: number of the others by what they are.
    """
    found = group_series(files, limits)
    place = {os.fspath(path): index for index, path in enumerate(files)}
    groups = [_described_group(one, place) for one in found.series]
    broken = [(place[os.fspath(path)], [asdict(one) for one in findings]) for path, findings in found.broken]
    known = {index for one in groups for index in one["files"]} | {index for index, _ in broken}
    for index, path in enumerate(files):
        if index not in known and file_suffix(path) in (".dcm", ".ima") and not _is_dicom(path):
            broken.append((index, [asdict(one) for one in inspect_dicom_image(path, None, limits).findings]))
    return {"groups": groups, "broken": broken, "skipped": _reasons(found)}


def _described_group(one: SeriesGroup, place: dict[str, int]) -> dict[str, Any]:
    first = one.records[0]
    return {
        "files": [place[os.fspath(path)] for path in one.paths],
        "placed": first.frames[0].position is not None,
        "frames": one.num_frames,
        "localiser": one.localiser,
        "patient": first.patient,
        "series": f"{first.series} {first.frames[0].orientation} {first.declared.rows} {first.declared.columns}",
    }


def _is_dicom(path: str) -> bool:
    try:
        with open_regular(path) as file:
            return content_name(file.read(560)).startswith("DICOM")
    except (InputRefusedError, OSError):
        return False


def _reasons(found: SeriesFiles) -> dict[str, int]:
    return dict(found.skipped)
