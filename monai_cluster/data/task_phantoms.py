# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Phantoms with labels: abdomens whose organs, liver lesions and diagnosis are known, for segmentation, detection and
classification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
from PIL import Image

from .phantom_anatomy import REGIONS, TISSUES, paint
from .phantom_lesions import instance_boxes, place_lesions
from .phantom_rendering import scan, tissue_values, turned

__all__ = ["LESIONS", "ORGANS", "TaskPhantom", "draw_task_phantom", "write_task_phantoms"]

ORGANS = ("liver", "spleen", "kidney")  # class ids 1, 2, 3
LESIONS = ("bright lesion", "dark lesion")  # box labels 0, 1
# The last two store slices on the first and on the middle axis, so that nothing may rely on the last.
ORIENTATIONS = ("RAS", "LPS", "LAI", "PLS", "SPL", "RSA")
STREAM = 100  # keeps these subjects apart from those of write_phantoms with the same seed
# What a bright and a dark lesion add and take, and the values they may end at: CT in HU, inside the soft-tissue window.
CONTRAST = {"CT": ((90, 140), (110, 160)), "MR": ((0.4, 0.6), (0.28, 0.4))}
LESION_RANGE = {"CT": (-160.0, 240.0), "MR": (0.0, np.inf)}


class TaskPhantom(NamedTuple):
    """One subject, before it is stored: axes are x to the right, y to the front, z to the head.

    Attributes:
        pixels: float32 ``W H S``, HU or arbitrary units; S is 1 for an image.
        organs: uint8 ``W H S``: 0 or the number of the organ from 1; a lesion is part of its organ.
        lesions: uint8 ``W H S``: 0 or the number of the lesion from 1.
        lesion_labels: of each lesion, 0 brighter or 1 darker than its surroundings.
        modality: ``"CT"`` or ``"MR"``.
        spacing: mm per voxel along each axis.
        origin: of the first voxel, mm.
    """

    pixels: npt.NDArray[np.float32]
    organs: npt.NDArray[np.uint8]
    lesions: npt.NDArray[np.uint8]
    lesion_labels: list[int]
    modality: str
    spacing: tuple[float, ...]
    origin: tuple[float, ...]


def write_task_phantoms(
    folder: str | Path,
    num_volumes: int = 12,
    num_images: int = 16,
    size: int = 64,
    seed: int = 0,
    test_share: float = 0.3,
    validation_share: float = 0.2,
) -> Path:
    """Write abdomens with label maps, lesion boxes and a diagnosis: CT and MR volumes (NIfTI), MR images (PNG).

    Every second subject has one to four lesions in the liver, the others none. Lesions are ellipsoids of 10 to 18 mm
    mean half axis, give or take a fifth per axis and at least 1.6 pixels and a slice, brighter or darker than the
    liver. Volumes come in several orientation codes with slices thicker than pixels. The same arguments give the same
    files, and no subject depends on how many there are.

    Args:
        folder: where to write; made if needed.
        num_volumes: each of its own subject, with 14 to 20 slices.
        num_images: each of its own subject.
        size: pixels across, at least 32; the other way may be a little shorter.
        seed: 0 or more.
        test_share: share of the volumes and of the images under ``"test"`` of the datalist.
        validation_share: share under ``"validation"``; the rest, at least one, is ``"training"``.

    Returns:
        Path of ``datalist.json``. Rows have ``image`` and ``label`` (relative paths; the label map lies on the image's
        grid), ``box`` (half-open; ``[i0, j0, k0, i1, j1, k1]`` along the stored array's axes for volumes,
        ``[x0, y0, x1, y1]`` with x the column for images; no lesion is ``[]``), ``box_label``, ``class`` (``"lesion"``
        or ``"healthy"``), ``kind``, ``modality`` and ``subject``. The head names the classes under ``labels`` and
        ``box_labels``. A folder that already holds the very same phantoms is left as it is.

    Raises:
        ValueError: for an argument out of its range.
        FileExistsError: if the folder holds another ``datalist.json``.
    """
    _check(num_volumes, num_images, size, seed, test_share, validation_share)
    root = Path(folder)
    datalist = root / "datalist.json"
    recipe = {
        "num_volumes": num_volumes,
        "num_images": num_images,
        "size": size,
        "seed": seed,
        "test_share": test_share,
        "validation_share": validation_share,
    }
    if datalist.exists():
        if _recipe_of(datalist) == recipe:
            return datalist
        raise FileExistsError(f"{datalist} exists and is not of these phantoms: choose another folder or delete it.")
    for name in ("volumes", "images", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    for kind, number in (("volume", num_volumes), ("image", num_images)):
        names = _splits(number, test_share, validation_share)
        for index, split in enumerate(names):
            splits[split].append(_write(root, kind, index, size, seed))
    document = {
        "name": "monai_cluster labelled phantoms",
        "task_phantoms": recipe,
        "labels": {str(number): name for number, name in enumerate(("background", *ORGANS))},
        "box_labels": {str(number): name for number, name in enumerate(LESIONS)},
        **splits,
    }
    datalist.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")  # last: it says that all is there
    return datalist


def draw_task_phantom(kind: str, index: int, size: int, seed: int) -> tuple[TaskPhantom, np.random.Generator]:
    """Draw one subject: what :func:`write_task_phantoms` stores, with the lesions still known voxel by voxel.

    Args:
        kind: ``"volume"`` or ``"image"``.
        index: of the subject; odd ones are healthy.
        size: pixels across.
        seed: of the whole set.

    Returns:
        The phantom, and the generator, from which the way of storing it is drawn.
    """
    rng = np.random.default_rng((seed, STREAM, kind == "image", index))
    region = REGIONS["abdomen"]
    shape = (size, size - int(rng.integers(0, 3)) * (size // 16), int(rng.integers(14, 21)) if kind == "volume" else 1)
    pixel = 2 * max(region.extent[:2]) * float(rng.uniform(0.9, 1.1)) / size
    if kind == "volume":
        thickness = 2 * region.extent[2] * float(rng.uniform(0.85, 1.0)) / shape[2]
        bottom = -(shape[2] - 1) / 2 * thickness + float(rng.uniform(-0.05, 0.05)) * region.extent[2]
    else:
        thickness, bottom = pixel, float(rng.uniform(2, 30))  # where liver, spleen and kidneys all are
    spacing = (pixel, pixel, thickness)
    origin = (*(-(n - 1) / 2 * pixel + float(rng.normal(0, 0.03 * n)) * pixel for n in shape[:2]), bottom)
    u, v, z = (
        (np.arange(n, dtype=np.float32) * np.float32(step) + np.float32(start))
        for n, step, start in zip(shape, spacing, origin, strict=True)
    )
    x, y = turned(u[:, None, None], v[None, :, None], rng)
    tissues = paint(region.build(rng), x, y, z[None, None])
    organs = np.zeros(tissues.shape, np.uint8)
    for number, organ in enumerate(ORGANS, start=1):
        organs[tissues == TISSUES.index(organ)] = number
    lesions = np.zeros(tissues.shape, np.uint8)
    if index % 2 == 0:
        lesions = place_lesions(organs == 1, spacing, int(rng.integers(1, 5)), rng)
    modality = "CT" if kind == "volume" and rng.random() < 0.5 else "MR"
    pixels, labels = _scan_with_lesions(tissues, lesions, modality, rng)
    return TaskPhantom(pixels, organs, lesions, labels, modality, spacing, origin), rng


def _scan_with_lesions(
    tissues: npt.NDArray[np.uint8], lesions: npt.NDArray[np.uint8], modality: str, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Pixels, and whether each lesion is brighter (0) or darker (1) than the liver round it."""
    values = tissue_values(modality, rng)
    pixels = values[tissues]
    liver = float(values[TISSUES.index("liver")])
    labels = []
    lowest, highest = LESION_RANGE[modality]
    for number in range(1, int(lesions.max()) + 1):
        bright, dark = (float(rng.uniform(*bounds)) for bounds in CONTRAST[modality])
        # A dark liver shows only bright lesions, a strongly enhanced one only dark ones, darker than the window's top.
        shown = min(liver, highest)
        ends = (shown + bright, shown - dark)
        possible = [label for label, end in enumerate(ends) if lowest <= end <= highest]
        labels.append(possible[int(rng.integers(len(possible)))])
        pixels[lesions == number] = np.float32(ends[labels[-1]])
    return scan(pixels, modality, rng), labels


def _write(root: Path, kind: str, index: int, size: int, seed: int) -> dict[str, Any]:
    """Store one subject and return its row."""
    phantom, rng = draw_task_phantom(kind, index, size, seed)
    subject = f"{kind}{index:03d}"
    suffix = ".nii.gz" if kind == "volume" else ".png"
    image, label = f"{kind}s/{subject}{suffix}", f"labels/{subject}{suffix}"
    store = _store_volume if kind == "volume" else _store_image
    boxes = store(phantom, root / image, root / label, rng)
    return {
        "image": image,
        "label": label,
        "box": boxes,
        "box_label": phantom.lesion_labels,
        "class": "lesion" if boxes else "healthy",
        "kind": kind,
        "modality": phantom.modality,
        "subject": subject,
    }


def _store_volume(phantom: TaskPhantom, image: Path, label: Path, rng: np.random.Generator) -> list[list[int]]:
    """Image and label map as NIfTI in one orientation code; returns the boxes in that array."""
    affine = np.diag([*phantom.spacing, 1.0])
    affine[:3, 3] = phantom.origin
    code = ORIENTATIONS[int(rng.integers(len(ORIENTATIONS)))]
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code))
    pixels = np.round(phantom.pixels).astype(np.int16)
    stored = [nib.Nifti1Image(one, affine).as_reoriented(turn) for one in (pixels, phantom.organs, phantom.lesions)]
    for file, path in zip(stored[:2], (image, label), strict=True):
        file.header.set_xyzt_units("mm")
        file.set_qform(file.affine, code=1)
        file.set_sform(file.affine, code=1)
        file.to_filename(path)
    return instance_boxes(np.asarray(stored[2].dataobj))


def _store_image(phantom: TaskPhantom, image: Path, label: Path, rng: np.random.Generator) -> list[list[int]]:
    """Image and label map as PNG, front up and the patient's right on the left; returns boxes as x0, y0, x1, y1."""
    pixels, organs, lesions = (
        np.ascontiguousarray(one[::-1, ::-1, 0].T) for one in (phantom.pixels, phantom.organs, phantom.lesions)
    )
    bits = 16 if rng.random() < 0.5 else 8
    top = max(float(np.percentile(pixels, 99.8)), 1e-6)
    scaled = np.clip(pixels / top, 0, 1) * (2**bits - 1)
    Image.fromarray(scaled.round().astype(np.uint8 if bits == 8 else np.uint16)).save(image)
    Image.fromarray(organs).save(label)
    return [[x0, y0, x1, y1] for y0, x0, y1, x1 in instance_boxes(lesions)]


def _splits(number: int, test_share: float, validation_share: float) -> list[str]:
    """The split of each subject; training keeps at least one."""
    test = min(round(number * test_share), max(number - 1, 0))
    validation = min(round(number * validation_share), max(number - 1 - test, 0))
    return ["training"] * (number - test - validation) + ["validation"] * validation + ["test"] * test


def _recipe_of(datalist: Path) -> Any:
    try:
        return json.loads(datalist.read_text(encoding="utf-8")).get("task_phantoms")
    except (ValueError, AttributeError):
        return None


def _check(num_volumes: int, num_images: int, size: int, seed: int, test_share: float, validation_share: float) -> None:
    if num_volumes < 0 or num_images < 0 or num_volumes + num_images == 0:
        raise ValueError(
            f"num_volumes and num_images must be 0 or more and not both 0, got {num_volumes} and {num_images}."
        )
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}: less shows no lesions.")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}.")
    if min(test_share, validation_share) < 0 or test_share + validation_share >= 1:
        raise ValueError(
            "test_share and validation_share must be 0 or more and leave something to train on, got "
            f"{test_share} and {validation_share}."
        )
