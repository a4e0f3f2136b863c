# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The files of a prediction: label maps in a tree like the sources', and one JSON file over all cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from torch import Tensor

from monai_cluster.data.readers import PICTURE_SUFFIXES, file_suffix

__all__ = ["PredictionFolder", "write_label_map"]


class PredictionFolder:
    """Label maps and ``predictions.json`` of one model.

    Args:
        out: the folder.
        task: segmentation, detection or classification.
        class_names: by number.
        names: the sources, relative to their datalist, as in ``Datalist.names``.

    Raises:
        FileExistsError: if the folder is not empty.
    """

    def __init__(self, out: str | Path, task: str, class_names: Sequence[str], names: Sequence[str]) -> None:
        self.root = Path(out)
        if self.root.exists() and any(self.root.iterdir()):
            raise FileExistsError(f"{self.root} is not empty: choose another folder, or delete it yourself.")
        self.root.mkdir(parents=True, exist_ok=True)
        self.task, self.class_names = task, list(class_names)
        self.targets = _targets(names)
        self.entries: list[dict[str, Any]] = []

    def add(self, name: str, value: Any, affine: Tensor, image: Any) -> None:
        """Write one prediction, or note it for :meth:`finish`.

        Args:
            name: one of the sources.
            value: class ids on the source's grid, a list of detections, or probabilities by class name.
            affine: ``4 4`` of the source.
            image: path of the source, or list of paths.
        """
        entry: dict[str, Any] = {"image": name}
        if self.task == "segmentation":
            written = write_label_map(self.root / self.targets[name], value, affine, image)
            entry["prediction"] = written.relative_to(self.root).as_posix()
        else:
            entry["detections" if self.task == "detection" else "probabilities"] = value
        self.entries.append(entry)

    def finish(self, model_sha256: str) -> Path:
        """Write ``predictions.json`` and return its path."""
        index = self.root / "predictions.json"
        head = {"task": self.task, "classes": self.class_names, "model_sha256": model_sha256}
        index.write_text(json.dumps({**head, "predictions": self.entries}, indent=1) + "\n", encoding="utf-8")
        return index


def write_label_map(target: Path, class_ids: Any, affine: Tensor, image: Any) -> Path:
    """Write class ids with the source's geometry; the suffix is chosen by what the source is.

    Args:
        target: path without suffix.
        class_ids: ``H W`` or ``H W S``, on the source's grid.
        affine: ``4 4`` of the source.
        image: path of the source, or list of paths.

    Returns:
        the written file, PNG for pictures and else NIfTI.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    ids = np.asarray(class_ids)
    first = image if isinstance(image, (str, Path)) else image[0]
    if file_suffix(first) in PICTURE_SUFFIXES:
        path = target.with_name(target.name + ".png")
        Image.fromarray(ids).save(path)
        return path
    path = target.with_name(target.name + ".nii.gz")
    volume = nib.Nifti1Image(ids if ids.ndim == 3 else ids[..., None], np.asarray(affine))
    volume.header.set_xyzt_units("mm")
    volume.set_qform(volume.affine, code=1)
    volume.set_sform(volume.affine, code=1)
    volume.to_filename(path)
    return path


def _targets(names: Sequence[str]) -> dict[str, Path]:
    """Where each prediction goes: the source's relative path without suffix, kept inside the folder and unique."""
    targets: dict[str, Path] = {}
    taken: set[Path] = set()
    for name in names:
        first = Path(name.split("|")[0])
        stem = first.name[: -len(file_suffix(first))] if file_suffix(first) else first.name
        parts = [part for part in first.parent.parts if part not in ("..", "/", first.anchor)]
        path = Path(*parts, stem or "prediction")
        if path in taken:  # scan.nii.gz and scan.mha, or frames of one file
            path = path.with_name(f"{path.name}_{sum(one.name.startswith(path.name) for one in taken)}")
        taken.add(path)
        targets[name] = path
    return targets
