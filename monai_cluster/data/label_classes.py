# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which classes a labelled datalist has, and their numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_cluster.keys import ClusterKeys as Keys

from .readers import PICTURE_SUFFIXES, file_suffix, read_image, read_volume

__all__ = ["class_names", "class_weights", "number_classes"]

Row = dict[str, Any]


def class_names(task: str, rows: Sequence[Row], source: str | Path = "", label_key: str = Keys.LABEL) -> list[str]:
    """Names of the classes, by their number.

    * segmentation: the list's ``"labels"`` (``{"0": "background", "1": "liver"}``), else the ids in the label maps.
    * detection: the list's ``"box_labels"``, else the numbers in the rows' ``box_label``.
    * classification: the sorted values of the label column.

    Args:
        task: segmentation, detection or classification.
        rows: the training rows.
        source: the datalist, whose head may name the classes.
        label_key: the label's column.

    Returns:
        For segmentation with the background first; for detection without.

    Raises:
        ValueError: if a row has no label, or there are fewer than two classes (one for detection).
    """
    lacking = sum(label_key not in row for row in rows) if task != "detection" else sum(Keys.BOX not in r for r in rows)
    if lacking:
        column = Keys.BOX if task == "detection" else label_key
        raise ValueError(f"every row needs the column {column!r} for {task}, {lacking} of {len(rows)} lack it.")
    if task == "classification":
        names = sorted({str(row[label_key]) for row in rows}, key=_natural)
    else:
        said = _said(source, "labels" if task == "segmentation" else "box_labels")
        highest = max(_ids(rows, label_key) if task == "segmentation" else _box_ids(rows), default=0)
        names = [said.get(number, _unnamed(task, number)) for number in range(max([highest, *said]) + 1)]
    least = 1 if task == "detection" else 2
    if len(names) < least:
        raise ValueError(f"{task} needs at least {least} classes among the training rows, got {names}.")
    return names


def number_classes(rows: Sequence[Row], names: Sequence[str], label_key: str = Keys.LABEL) -> list[Row]:
    """Rows of a classification with the class's number under ``label`` and what was there under ``class_name``.

    Raises:
        ValueError: for a class that training does not have.
    """
    numbers = {name: number for number, name in enumerate(names)}
    unknown = sorted({str(row.get(label_key)) for row in rows} - set(numbers))
    if unknown:
        raise ValueError(f"the classes are {', '.join(names)}; some rows have {', '.join(unknown)} in {label_key!r}.")
    return [{**row, Keys.LABEL: numbers[str(row[label_key])], "class_name": str(row[label_key])} for row in rows]


def class_weights(rows: Sequence[Row], num_classes: int) -> Tensor:
    """Weights ``K`` for a cross-entropy in which every class counts alike; rows as from :func:`number_classes`."""
    counts = np.bincount([int(row[Keys.LABEL]) for row in rows], minlength=num_classes)
    return torch.from_numpy(len(rows) / (num_classes * np.maximum(counts, 1))).float()


def _said(source: str | Path, key: str) -> dict[int, str]:
    path = Path(source)
    if path.suffix.lower() != ".json" or not path.is_file():
        return {}
    head = json.loads(path.read_text(encoding="utf-8"))
    said = head.get(key, {}) if isinstance(head, dict) else {}
    if isinstance(said, list):
        said = dict(enumerate(said))
    return {int(number): str(name) for number, name in said.items()} if isinstance(said, dict) else {}


def _ids(rows: Sequence[Row], label_key: str) -> list[int]:
    """Largest id of each label map."""
    highest = []
    for row in rows:
        path = row[label_key]
        read = read_image if file_suffix(path) in PICTURE_SUFFIXES or row.get(Keys.KIND) == "image" else read_volume
        highest.append(int(read(path).max()))
    return highest


def _box_ids(rows: Sequence[Row]) -> list[int]:
    return [int(number) for row in rows for number in np.ravel(row.get(Keys.BOX_LABEL, [0] * len(row[Keys.BOX])))]


def _unnamed(task: str, number: int) -> str:
    return "background" if task == "segmentation" and number == 0 else f"class {number}"


def _natural(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
