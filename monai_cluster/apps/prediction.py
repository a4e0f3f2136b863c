# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Predict with a fine-tuned model, on the files' own grids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from monai_cluster.apps.finetuned import FinetunedModel, load_finetuned
from monai_cluster.apps.prediction_folder import PredictionFolder, case_names
from monai_cluster.apps.prediction_steps import value_on_source
from monai_cluster.data import LabelledDataset, labelled_preprocessing, load_datalist
from monai_cluster.data.dicom_seg import require_highdicom
from monai_cluster.data.labelled_samples import SOURCE_AFFINE, SOURCE_SHAPE
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
    dicom_seg: bool = False,
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
        dicom_seg: write a DICOM SEG object beside the label map of each DICOM series, with the series' patient and
            study in it, for segmentations of volumes; needs the extra ``monai-cluster[dicom]``.

    Returns:
        ``predictions.json`` in ``out``.

    Raises:
        FileExistsError: if ``out`` is not empty.
        FileNotFoundError: for missing weights or data.
        ImportError: for ``dicom_seg`` without the extra.
        ValueError: if the data do not suit the model (images for a volume model), or ``flips`` would change nothing;
            for ``dicom_seg`` of anything but a segmentation of volumes.
    """
    root = Path(out)
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty: choose another folder, or delete it yourself.")
    model = load_finetuned(weights)
    kind = "volume" if model.preprocessing["spatial_dims"] == 3 else "image"
    if dicom_seg:
        _need_dicom_seg(model.task, kind)
    datalist = load_datalist(data, split=split, kind=kind)
    names = case_names(datalist)
    sha256 = model.description["sha256"]
    folder = PredictionFolder(root, model.task, model.class_names, names, sha256 if dicom_seg else None)
    for name, found in zip(names, predict_rows(model, datalist.rows, device, flips, amp), strict=True):
        folder.add(name, found.value, found.affine, found.row[Keys.IMAGE])
    index = folder.finish(sha256)
    logger.info("%d predictions in %s", len(names), root)
    return index


def _need_dicom_seg(task: str, kind: str) -> None:
    """Say at once what could only fail after hours."""
    if task != "segmentation" or kind != "volume":
        raise ValueError(
            f"DICOM SEG holds segmentations of DICOM series, but this model is for {task} of {kind}s: "
            "leave dicom_seg off."
        )
    require_highdicom()


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
        ValueError: if a row is an image and the model takes volumes, or the other way round; for ``flips`` of a
            detector or of a model whose training mirrored nothing.
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
    predictor = model.predictor(**({"flip_axes": _mirrored_axes(model)} if flips else {}))
    model.network.eval().to(place)
    for place_in_list in tqdm(range(len(samples)), disable=None, desc=f"predict ({model.task})", unit="case"):
        sample = samples[place_in_list]
        image = sample[Keys.IMAGE]
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=amp):
            found = predictor(image.as_tensor().to(place), model.network)
        shape = tuple(int(length) for length in sample[SOURCE_SHAPE])
        affine, source = torch.as_tensor(image.affine, dtype=torch.float64), sample[SOURCE_AFFINE]
        value = value_on_source(model.task, model.class_names, found, affine, source, shape)
        yield Prediction(dict(rows[place_in_list]), value, source, shape, image.as_tensor())


def _mirrored_axes(model: FinetunedModel) -> list[int]:
    """Only what training showed mirrored may be mirrored now: elsewhere left and right are two classes."""
    axes: list[int] = list(model.description["recipe"].get("flip_axes", []))
    if model.task == "detection" or not axes:
        raise ValueError(
            "flips averages predictions of images mirrored as in training, which this "
            + ("detector cannot: leave it off." if model.task == "detection" else "model never saw: leave it off.")
        )
    return axes
