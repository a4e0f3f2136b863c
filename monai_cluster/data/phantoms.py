# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Phantoms: anatomy-like volumes and images of several classes, made on the spot, so that everything runs without
data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from PIL import Image

from .phantom_anatomy import REGIONS
from .phantom_rendering import Rendered, render_projection, render_volume

__all__ = ["PHANTOM_CLASSES", "write_phantoms"]

PHANTOM_CLASSES = tuple(REGIONS)
ORIENTATIONS = (
    "RAS",
    "LPS",
    "LAS",
    "RPI",
    "ARS",
    "LPI",
)  # slices stay on the last axis, as scanners write axial series


def write_phantoms(
    folder: str | Path,
    num_volumes_per_class: int = 10,
    num_images_per_class: int = 40,
    size: int = 72,
    seed: int = 0,
    test_share: float = 0.3,
) -> Path:
    """Write a labelled data set of phantoms: CT and MR volumes (NIfTI), MR slices and X-ray-like projections (PNG).

    The classes (``head``, ``chest``, ``abdomen``, ``pelvis``, ``knee``, ``heart``) differ by structure; contrast, bias
    field, noise, blur, position, zoom, turn, spacing, orientation code and number of slices vary within each. The same
    arguments give the same files.

    Args:
        folder: where to write; made if needed.
        num_volumes_per_class: each of its own subject, with 24 to 32 slices.
        num_images_per_class: two per subject, a slice and a projection, 8 and 16 bits.
        size: pixels across, at least 16; volumes may be a little shorter the other way.
        seed: 0 or more.
        test_share: share of each class's subjects under ``"test"`` of the datalist, in [0, 1); the rest is
            ``"training"``.

    Returns:
        Path of ``datalist.json``: rows with ``image`` (relative path), ``kind``, ``label``, ``modality``, ``subject``
        and ``projection`` (``"none"`` for volumes and slices, ``"frontal"`` or ``"lateral"``). A folder that already
        holds the very same phantoms is left as it is.

    Raises:
        ValueError: for an argument out of its range.
        FileExistsError: if the folder holds another ``datalist.json``.
    """
    _check(num_volumes_per_class, num_images_per_class, size, seed, test_share)
    root = Path(folder)
    datalist = root / "datalist.json"
    recipe = {
        "num_volumes_per_class": num_volumes_per_class,
        "num_images_per_class": num_images_per_class,
        "size": size,
        "seed": seed,
        "test_share": test_share,
    }
    if datalist.exists():
        if _recipe_of(datalist) == recipe:
            return datalist
        raise FileExistsError(f"{datalist} exists and is not of these phantoms: choose another folder or delete it.")
    for name in ("volumes", "images"):
        (root / name).mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[dict[str, Any]]] = {"training": [], "test": []}
    for place, label in enumerate(PHANTOM_CLASSES):
        for kind, number in (("volume", num_volumes_per_class), ("image", (num_images_per_class + 1) // 2)):
            held_out = number - round(number * test_share) if number > 1 else number
            for index in range(number):
                # One generator per subject, so that no count changes another subject.
                rng = np.random.default_rng((seed, place, kind == "image", index))
                subject = f"{label}-{kind[0]}{index:03d}"
                if kind == "volume":
                    rows = [_write_volume(root, label, subject, size, rng)]
                else:
                    rows = _write_images(root, label, subject, size, rng)[: num_images_per_class - 2 * index]
                splits["training" if index < held_out else "test"] += rows
    document = {"name": "monai_cluster phantoms", "phantoms": recipe, **splits}
    datalist.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")  # last: it says that all is there
    return datalist


def _write_volume(root: Path, label: str, subject: str, size: int, rng: np.random.Generator) -> dict[str, Any]:
    """One NIfTI volume in one of several orientation codes."""
    region = REGIONS[label]
    modality = "CT" if rng.random() < 0.45 else "MR"
    shape = (size, size - int(rng.integers(0, 3)) * (size // 18), int(rng.integers(24, 33)))
    found = render_volume(region.build(rng), region, modality, shape, rng)
    affine = np.diag([*found.spacing, 1.0])
    affine[:3, 3] = found.origin
    whole_numbers = modality == "CT" or rng.random() < 0.5
    pixels = np.round(found.pixels).astype(np.int16) if whole_numbers else found.pixels
    image = nib.Nifti1Image(pixels, affine)
    code = ORIENTATIONS[int(rng.integers(len(ORIENTATIONS)))]
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code))
    image = image.as_reoriented(turn)
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    path = f"volumes/{subject}.nii.gz"
    image.to_filename(root / path)
    return _row(path, "volume", label, modality, subject, "none")


def _write_images(root: Path, label: str, subject: str, size: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A slice and a projection of one subject."""
    region = REGIONS[label]
    parts = region.build(rng)
    shape = (size, size - int(rng.integers(0, 3)) * (size // 18))
    view = "lateral" if rng.random() < 0.3 else "frontal"
    flat = render_volume(parts, region, "MR", (*shape, 1), rng)
    pictures = (
        ("slice", "MR", "none", Rendered(flat.pixels[..., 0], flat.spacing[:2], flat.origin[:2])),
        ("projection", "XR", view, render_projection(parts, region, shape, view == "lateral", rng)),
    )
    rows = []
    for name, modality, projection, found in pictures:
        path = f"images/{subject}-{name}.png"
        _write_png(root / path, found.pixels, 16 if rng.random() < 0.5 else 8)
        rows.append(_row(path, "image", label, modality, subject, projection))
    return rows


def _write_png(path: Path, pixels: npt.NDArray[np.float32], bits: int) -> None:
    """Up is the front or the head, the patient's right is on the left, as on a viewing screen."""
    screen = pixels[::-1, ::-1].T
    top = max(float(np.percentile(screen, 99.8)), 1e-6)
    scaled = np.clip(screen / top, 0, 1) * (2**bits - 1)
    Image.fromarray(np.ascontiguousarray(scaled.round().astype(np.uint8 if bits == 8 else np.uint16))).save(path)


def _row(path: str, kind: str, label: str, modality: str, subject: str, projection: str) -> dict[str, Any]:
    return {
        "image": path,
        "kind": kind,
        "label": label,
        "modality": modality,
        "subject": subject,
        "projection": projection,
    }


def _recipe_of(datalist: Path) -> Any:
    try:
        return json.loads(datalist.read_text(encoding="utf-8")).get("phantoms")
    except (ValueError, AttributeError):
        return None


def _check(num_volumes: int, num_images: int, size: int, seed: int, test_share: float) -> None:
    if num_volumes < 0 or num_images < 0 or num_volumes + num_images == 0:
        raise ValueError(
            "num_volumes_per_class and num_images_per_class must be 0 or more and not both 0, "
            f"got {num_volumes} and {num_images}."
        )
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, got {size}: less shows no anatomy.")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}.")
    if not 0 <= test_share < 1:
        raise ValueError(f"test_share must be in [0, 1), got {test_share}.")
