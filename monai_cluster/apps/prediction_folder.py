# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The files of a prediction: label maps in a tree like the sources', and one JSON file over all cases."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from torch import Tensor

from monai_cluster.data import Datalist, write_dicom_seg
from monai_cluster.data.readers import (
    ITK_SUFFIXES,
    NIFTI_SUFFIXES,
    PICTURE_SUFFIXES,
    READABLE_SUFFIXES,
    SimpleITKReader,
    file_suffix,
)
from monai_cluster.keys import ClusterKeys as Keys

__all__ = ["PredictionFolder", "case_names", "write_label_map"]

logger = logging.getLogger(__name__)
FRAME = re.compile(r"#(\d+)$")


def case_names(rows: Datalist) -> list[str]:
    """Each row's name in its datalist, with the frame of files that hold several: ``scan.nii.gz#1``."""
    return [
        rows.names[row[Keys.SAMPLE_INDEX]] + (f"#{row['frame']}" if row.get("frame") not in (None, "") else "")
        for row in rows.rows
    ]


class PredictionFolder:
    """Label maps and ``predictions.json`` of one model.

    Args:
        out: the folder.
        task: segmentation, detection or classification.
        class_names: by number.
        names: the sources, see :func:`case_names`.
        dicom_seg_of: sha256 of the model, to write DICOM SEG objects beside the label maps of DICOM series; None: none.

    Raises:
        FileExistsError: if the folder is not empty.
    """

    def __init__(
        self,
        out: str | Path,
        task: str,
        class_names: Sequence[str],
        names: Sequence[str],
        dicom_seg_of: str | None = None,
    ) -> None:
        self.root = Path(out)
        if self.root.exists() and any(self.root.iterdir()):
            raise FileExistsError(f"{self.root} is not empty: choose another folder, or delete it yourself.")
        self.root.mkdir(parents=True, exist_ok=True)
        self.task, self.class_names, self.dicom_seg_of = task, list(class_names), dicom_seg_of
        self.targets = _targets(names)
        self.entries: list[dict[str, Any]] = []
        self.without_seg: Counter[str] = Counter()

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
            if self.dicom_seg_of is not None:
                entry |= self._dicom_seg(name, value, affine, image)
        else:
            entry["detections" if self.task == "detection" else "probabilities"] = value
        self.entries.append(entry)

    def _dicom_seg(self, name: str, value: Any, affine: Tensor, image: Any) -> dict[str, str]:
        """Where the SEG object went; nothing, and a reason for :meth:`finish`, where there can be none."""
        series = Path(image if isinstance(image, (str, Path)) else image[0])
        if not series.is_dir():
            self.without_seg["the source is no DICOM series"] += 1
            return {}
        target = self.root / self.targets[name]
        path = target.with_name(target.name + ".dcm")
        try:
            write_dicom_seg(value, series, path, self.class_names, affine, model_sha256=self.dicom_seg_of)
        except ValueError as error:  # the label map is written, and the other cases shall not be lost
            self.without_seg[str(error)] += 1
            return {}
        return {"dicom_seg": path.relative_to(self.root).as_posix()}

    def finish(self, model_sha256: str) -> Path:
        """Write ``predictions.json`` and return its path; say how many have no DICOM SEG, and why."""
        if self.without_seg:
            logger.warning(
                "%d of %d predictions have no DICOM SEG: %s",
                self.without_seg.total(),
                len(self.entries),
                "; ".join(f"{count} since {reason}" for reason, count in self.without_seg.most_common(3)),
            )
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
    if ids.ndim == 2:
        volume = _as_stored(volume, Path(first))
    volume.header.set_xyzt_units("mm")
    volume.set_qform(volume.affine, code=1)
    volume.set_sform(volume.affine, code=1)
    volume.to_filename(path)
    return path


def _as_stored(upright: Any, source: Path) -> Any:
    """Images are turned upright when they are read: turn a label map back to the axes of a NIfTI, NRRD or MHA file."""
    if file_suffix(source) in NIFTI_SUFFIXES:
        header = nib.load(source)
        affine, shape = header.affine, tuple(header.shape)[:3]
    elif file_suffix(source) in ITK_SUFFIXES:
        _, meta = SimpleITKReader().get_data(SimpleITKReader().read(source))
        affine, shape = meta["affine"], tuple(meta["spatial_shape"])
    else:
        return upright  # DICOM: rows and columns, as read
    codes = [nib.orientations.io_orientation(one) for one in (upright.affine, affine)]
    stored = np.asarray(upright.as_reoriented(nib.orientations.ornt_transform(*codes)).dataobj)
    return nib.Nifti1Image(stored.reshape(shape), affine)


def _targets(names: Sequence[str]) -> dict[str, Path]:
    """Where each prediction goes: the source's relative path without suffix, kept inside the folder and unique."""
    targets: dict[str, Path] = {}
    taken: set[Path] = set()
    for name in names:
        framed = FRAME.search(name)
        first = Path(FRAME.sub("", name).split("|")[0])
        suffix = file_suffix(first)
        # Folders of DICOM series are often called by their UID, whose last number is no suffix.
        stem = first.name[: -len(suffix)] if suffix in READABLE_SUFFIXES else first.name
        stem = (stem or "prediction") + (f"_{framed.group(1)}" if framed else "")
        parent = Path(*(part for part in first.parent.parts if part not in ("..", "/", first.anchor)))
        path, number = parent / stem, 0
        while path in taken:  # scan.nii.gz and scan.mha
            number += 1
            path = parent / f"{stem}_{number}"
        taken.add(path)
        targets[name] = path
    return targets
