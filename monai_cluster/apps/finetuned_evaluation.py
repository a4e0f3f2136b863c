# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Score a fine-tuned model on labelled rows, at the files' own resolution, case by case and with intervals."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from monai_cluster.apps.finetuned import FinetunedModel
from monai_cluster.apps.prediction import Prediction, predict_rows
from monai_cluster.apps.prediction_folder import case_names
from monai_cluster.data import Datalist, number_classes
from monai_cluster.data.labelled_samples import LoadLabeld
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.metrics import match_case, score_segmentation
from monai_cluster.metrics.bootstrap import BootstrapInterval
from monai_cluster.metrics.segmentation_scores import foreground_mean
from monai_cluster.metrics.task_scores import MAIN_SCORE, part_to_json, score_parts, score_with_intervals

__all__ = ["evaluate_model"]

logger = logging.getLogger(__name__)
POLICY = (
    "A class that neither truth nor prediction has is left out of the means and counted as absent; one that only one "
    "of them has scores Dice 0, has no distance and counts as missed."
)


def evaluate_model(
    model: FinetunedModel,
    rows: Datalist | Sequence[dict[str, Any]],
    out: str | Path,
    label_key: str = Keys.LABEL,
    device: str | None = None,
    flips: bool = False,
    amp: bool = False,
    pictures: bool = True,
    num_draws: int = 1000,
) -> dict[str, dict[str, float]]:
    """Predict, score, and write ``scores.json``, ``cases.csv``, ``cases.json`` and pictures.

    Args:
        model: as loaded.
        rows: labelled, with ``sample_index``; label maps as paths.
        out: folder, made if needed; its files of an earlier evaluation are replaced.
        label_key: the label's column.
        device: such as ``cpu``; CUDA by default where there is one.
        flips: average predictions over mirrored images, along the axes that were mirrored in training.
        amp: predict in bfloat16.
        pictures: draw worst, median and best case, the FROC curve, or the confusion matrix.
        num_draws: of the bootstrap over patients.

    Returns:
        ``{score: {"value", "low", "high"}}``; the interval is the 95 % bootstrap interval over patients.

    Raises:
        ValueError: if there are no rows, or a row lacks its label.
    """
    listed = _labelled(model, rows.rows if isinstance(rows, Datalist) else list(rows), label_key)
    root = Path(out)
    root.mkdir(parents=True, exist_ok=True)
    names = case_names(rows) if isinstance(rows, Datalist) else [_file_name(row) for row in listed]
    parts, cases = [], []
    for name, prediction in zip(names, predict_rows(model, listed, device, flips, amp), strict=True):
        try:
            part = _part(model, prediction, _truth(model, prediction, label_key))
        except ValueError as error:
            raise ValueError(f"{name} cannot be scored: {error}") from error
        parts.append(part)
        cases.append(_case(model, prediction, part, name))
    patients = [case["patient"] for case in cases]
    scores = score_with_intervals(model.task, parts, model.class_names, patients, num_draws)
    _write(root, model, cases, parts, scores, patients)
    if pictures:
        from monai_cluster.apps.evaluation_pictures import draw_evaluation

        drawn = draw_evaluation(
            model, listed, lambda found: _truth(model, found, label_key), cases, parts, scores, root / "pictures",
            device=device, flips=flips, amp=amp,
        )  # fmt: skip
        for path in drawn:
            logger.info("drew %s", path)
    main = scores[MAIN_SCORE[model.task]]
    logger.info(
        "%s: %s %.3f [%.3f, %.3f] over %d cases of %d patients; see %s",
        model.task, MAIN_SCORE[model.task], main.value, main.low, main.high, len(cases), main.num_patients, root,
    )  # fmt: skip
    return {name: _interval(found) for name, found in scores.items()}


def _labelled(model: FinetunedModel, rows: list[dict[str, Any]], label_key: str) -> list[dict[str, Any]]:
    needed = Keys.BOX if model.task == "detection" else label_key
    lacking = sum(needed not in row for row in rows)
    if not rows or lacking:
        raise ValueError(f"evaluation needs rows with {needed!r}, got {len(rows)} rows of which {lacking} lack it.")
    if model.task == "classification":
        return number_classes(rows, model.class_names, label_key)
    return rows


def _truth(model: FinetunedModel, prediction: Prediction, label_key: str) -> Any:
    """The label on the file's own grid; a label map that lies on another one is refused."""
    row = prediction.row
    if model.task == "segmentation":
        image = MetaTensor(torch.zeros(1).expand(1, *prediction.shape), affine=prediction.affine)
        kind = "volume" if len(prediction.shape) == 3 else "image"
        load = LoadLabeld(Keys.LABEL, kind, len(model.class_names))
        return load({Keys.IMAGE: image, Keys.LABEL: row[label_key]})[Keys.LABEL][0].as_tensor().long()
    if model.task == "detection":
        boxes = torch.as_tensor(row[Keys.BOX], dtype=torch.float64).reshape(-1, 2 * len(prediction.shape))
        labels = torch.as_tensor(row.get(Keys.BOX_LABEL, [0] * len(boxes)), dtype=torch.int64).reshape(-1)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(model.class_names):
            raise ValueError(
                f"the classes are {', '.join(model.class_names)}, numbered from 0; box labels are {labels.tolist()}."
            )
        return {Keys.BOX: boxes, Keys.BOX_LABEL: labels}
    return int(row[Keys.LABEL])


def _part(model: FinetunedModel, prediction: Prediction, truth: Any) -> Any:
    if model.task == "segmentation":
        spacing = prediction.affine[:3, : len(prediction.shape)].norm(dim=0).tolist()
        return score_segmentation(prediction.value, truth, spacing, list(model.class_names))
    if model.task == "classification":
        return truth, [prediction.value[name] for name in model.class_names]
    found = prediction.value
    detections = {
        Keys.BOX: torch.tensor([one["box_voxel"] for one in found], dtype=torch.float64).reshape(
            -1, 2 * len(prediction.shape)
        ),
        Keys.BOX_LABEL: torch.tensor([one["label"] for one in found], dtype=torch.int64),
        Keys.SCORE: torch.tensor([one["score"] for one in found]),
    }
    return match_case(detections, truth)


def _file_name(row: Mapping[str, Any]) -> str:
    image = row[Keys.IMAGE]
    return Path(image if isinstance(image, (str, Path)) else image[0]).name


def _case(model: FinetunedModel, prediction: Prediction, part: Any, name: str) -> dict[str, Any]:
    """One line of the table."""
    row = prediction.row
    case: dict[str, Any] = {"case": name, "patient": str(row.get(Keys.SUBJECT, row[Keys.SAMPLE_INDEX]))}
    if model.task == "segmentation":
        case["dice"] = foreground_mean(part)
        case |= {f"{score} of {name}": value for name, scores in part.items() for score, value in scores.items()}
    elif model.task == "detection":
        case |= {
            name: value
            for name, value in score_parts("detection", [part], model.class_names).items()
            if name in ("ap_10", "ap_50", "ap_10_50")
        }
        case |= {"true_boxes": len(part.true_labels), "detections": len(part.scores)}
    else:
        best = max(prediction.value, key=prediction.value.get)
        case |= {"truth": model.class_names[part[0]], "prediction": best}
        case |= {f"probability of {name}": value for name, value in prediction.value.items()}
    return case


def _write(
    root: Path,
    model: FinetunedModel,
    cases: Sequence[Mapping[str, Any]],
    parts: Sequence[Any],
    scores: Mapping[str, BootstrapInterval],
    patients: Sequence[str],
) -> None:
    with (root / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(cases[0]))
        writer.writeheader()
        writer.writerows(cases)
    stored = [
        {"case": case["case"], "patient": case["patient"], "part": part_to_json(model.task, part)}
        for case, part in zip(cases, parts, strict=True)
    ]
    (root / "cases.json").write_text(json.dumps(stored) + "\n", encoding="utf-8")
    head = {
        "task": model.task,
        "classes": list(model.class_names),
        "num_cases": len(cases),
        "num_patients": len(set(patients)),
        "intervals": "95 % percentile bootstrap over patients",
        "model_sha256": model.description["sha256"],
        **({"empty_masks": POLICY} if model.task == "segmentation" else {}),
    }
    table = {name: _interval(found) for name, found in scores.items()}
    text = json.dumps({**head, "scores": _plain(table)}, indent=2, allow_nan=False)
    (root / "scores.json").write_text(text + "\n", encoding="utf-8")


def _interval(found: BootstrapInterval) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
