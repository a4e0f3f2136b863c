# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Predict with a fine-tuned model, on the files' own grids."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from monai_cluster.apps.finetuned import FinetunedModel, load_finetuned
from monai_cluster.data import LabelledDataset, class_ids_on_source_grid, labelled_preprocessing, load_datalist
from monai_cluster.data.labelled_samples import SOURCE_AFFINE, SOURCE_SHAPE
from monai_cluster.data.readers import PICTURE_SUFFIXES, file_suffix
from monai_cluster.keys import ClusterKeys as Keys

__all__ = ["Prediction", "predict", "predict_rows"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What a model says about one row.

    Attributes:
        row: the datalist's.
        value: class ids on the file's grid (segmentation), a list of detections, or probabilities by class name.
        affine: ``4 4`` of the file's grid, index to RAS mm.
        shape: of the file's grid.
        image: the preprocessed image ``C …``, for pictures.
    """

    row: dict[str, Any]
    value: Any
    affine: Tensor
    shape: tuple[int, ...]
    image: Tensor


def predict(
    weights: str,
    data: str,
    out: str,
    split: str = "test",
    device: str | None = None,
    flips: bool = False,
    amp: bool = False,
) -> Path:
    """Write a fine-tuned model's predictions for every image or volume, in the files' own geometry.

    Segmentations become NIfTI label maps with the source's affine (PNG for PNG, JPEG, TIFF and BMP), in a tree like the
    sources'; detections and classifications one ``predictions.json``: boxes in world millimetres (RAS) and in voxels of
    the file, probabilities by class name.

    Args:
        weights: folder of a fine-tuning run, or its ``exported/model.safetensors``.
        data: folder of scans, datalist JSON or CSV; labels are not read.
        out: folder for the predictions; refused if it holds any.
        split: which list of the datalist.
        device: such as ``cpu`` or ``cuda``; CUDA by default where there is one.
        flips: average over mirrored images, along the axes that were mirrored in training.
        amp: predict in bfloat16.

    Returns:
        ``predictions.json`` in ``out``.

    Raises:
        FileExistsError: if ``out`` is not empty.
        FileNotFoundError: for missing weights or data.
        ValueError: if the data do not suit the model (images for a volume model).
    """
    root = Path(out)
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty: choose another folder, or delete it yourself.")
    model = load_finetuned(weights)
    kind = "volume" if model.preprocessing["spatial_dims"] == 3 else "image"
    datalist = load_datalist(data, split=split, kind=kind)
    names = dict(enumerate(datalist.names))
    targets = _targets([names[row[Keys.SAMPLE_INDEX]] for row in datalist.rows])
    root.mkdir(parents=True, exist_ok=True)
    entries = []
    for prediction in predict_rows(model, datalist.rows, device, flips, amp):
        name = names[prediction.row[Keys.SAMPLE_INDEX]]
        entry: dict[str, Any] = {"image": name}
        if model.task == "segmentation":
            written = write_label_map(root / targets[name], prediction)
            entry["prediction"] = written.relative_to(root).as_posix()
        else:
            entry["detections" if model.task == "detection" else "probabilities"] = prediction.value
        entries.append(entry)
    index = root / "predictions.json"
    head = {"task": model.task, "classes": list(model.class_names), "model_sha256": model.description["sha256"]}
    index.write_text(json.dumps({**head, "predictions": entries}, indent=1) + "\n", encoding="utf-8")
    logger.info("%d predictions in %s", len(entries), root)
    return index


@torch.inference_mode()
def predict_rows(
    model: FinetunedModel,
    rows: Sequence[dict[str, Any]],
    device: str | None = None,
    flips: bool = False,
    amp: bool = False,
) -> Iterator[Prediction]:
    """Predict row by row.

    Args:
        model: as loaded.
        rows: of a datalist, with ``sample_index``.
        device: such as ``cpu``; CUDA by default where there is one.
        flips: average over mirrored images, along the axes that were mirrored in training.
        amp: predict in bfloat16.

    Raises:
        ValueError: if a row is an image and the model takes volumes, or the other way round.
        RuntimeError: if a file cannot be read; names it.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dims = int(model.preprocessing["spatial_dims"])
    wrong = [row for row in rows if row.get(Keys.KIND) not in (None, "volume" if dims == 3 else "image")]
    if wrong:
        raise ValueError(
            f"this model takes {'volumes' if dims == 3 else 'images'}, but {len(wrong)} of {len(rows)} rows are "
            f"{wrong[0][Keys.KIND]}s: choose other data or another model."
        )
    preprocessing = labelled_preprocessing(model.task, with_labels=False, **model.preprocessing)  # type: ignore[arg-type]
    samples = LabelledDataset(list(rows), preprocessing)
    changes: dict[str, Any] = {}
    if model.task != "detection":
        changes["flip_axes"] = model.description["recipe"].get("flip_axes", []) if flips else []
    predictor = model.predictor(**changes)
    model.network.eval().to(place)
    for place_in_list in tqdm(range(len(samples)), disable=None, desc=f"predict ({model.task})", unit="case"):
        sample = samples[place_in_list]
        image = sample[Keys.IMAGE]
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=amp):
            found = predictor(image.as_tensor().to(place), model.network)
        shape = tuple(int(length) for length in sample[SOURCE_SHAPE])
        affine, source = torch.as_tensor(image.affine, dtype=torch.float64), sample[SOURCE_AFFINE]
        value = _on_source(model, found, affine, source, shape)
        yield Prediction(dict(rows[place_in_list]), value, source, shape, image.as_tensor())


def _on_source(model: FinetunedModel, found: Any, affine: Tensor, source: Tensor, shape: tuple[int, ...]) -> Any:
    if model.task == "segmentation":
        return class_ids_on_source_grid(found.cpu(), affine, source, shape)
    if model.task == "classification":
        return {name: round(float(value), 6) for name, value in zip(model.class_names, found, strict=True)}
    from monai_cluster.data.boxes import detections_to_json

    boxes = {name: value.float().cpu() for name, value in found.items()}
    listed: list[dict[str, Any]] = detections_to_json(
        boxes[Keys.BOX], boxes[Keys.BOX_LABEL].long(), boxes[Keys.SCORE], affine, source, shape
    )
    for entry in listed:
        entry["class"] = model.class_names[entry["label"]]
    return listed


def write_label_map(target: Path, prediction: Prediction) -> Path:
    """Write class ids with the source's geometry; the suffix is chosen by what they are.

    Args:
        target: path without suffix.
        prediction: of a segmentation.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    ids = np.asarray(prediction.value)
    image = prediction.row[Keys.IMAGE]
    first = image if isinstance(image, (str, Path)) else image[0]
    if file_suffix(first) in PICTURE_SUFFIXES:
        path = target.with_name(target.name + ".png")
        Image.fromarray(ids).save(path)
        return path
    path = target.with_name(target.name + ".nii.gz")
    volume = nib.Nifti1Image(ids if ids.ndim == 3 else ids[..., None], np.asarray(prediction.affine))
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
