# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The pictures of an evaluation: worst, median and best case, FROC curve, confusion matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_cluster.apps.finetuned import FinetunedModel
from monai_cluster.apps.picture_cases import draw_cases
from monai_cluster.apps.picture_confusion import draw_confusion
from monai_cluster.apps.picture_froc import draw_froc
from monai_cluster.apps.prediction import Prediction, predict_rows
from monai_cluster.apps.scored_case import ScoredCase, worst_median_best
from monai_cluster.data.boxes import rows_first
from monai_cluster.data.preprocessing import LoadSampled
from monai_cluster.data.readers import PICTURE_SUFFIXES, file_suffix
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.metrics import froc, operating_threshold
from monai_cluster.metrics.bootstrap import BootstrapInterval
from monai_cluster.metrics.classification_scores import confusion_counts

__all__ = ["draw_evaluation"]

CASE_SCORE = {"segmentation": ("dice", "mean Dice"), "detection": ("ap_10_50", "AP over IoU .1 to .5")}


def draw_evaluation(
    model: FinetunedModel,
    rows: Sequence[dict[str, Any]],
    truths: Any,
    cases: Sequence[Mapping[str, Any]],
    parts: Sequence[Any],
    scores: Mapping[str, BootstrapInterval],
    folder: Path,
    **prediction: Any,
) -> Iterator[Path]:
    """Draw what the task has; the three cases are predicted once more rather than all kept.

    Args:
        model: that was evaluated.
        rows: of the cases.
        truths: ``prediction -> label on the file's grid``.
        cases: lines of the table.
        parts: what is known of each case.
        scores: of all cases, with intervals.
        folder: for the pictures.
        prediction: arguments of :func:`predict_rows`.

    Yields:
        Each picture's path once it is written.
    """
    if model.task == "classification":
        called = [int(np.argmax(values)) for _, values in parts]
        counts = confusion_counts(called, [label for label, _ in parts], len(model.class_names))
        said = ", ".join(f"{name.replace('_', ' ')} {scores[name].value:.3f}" for name in ("auc", "balanced_accuracy"))
        yield draw_confusion(counts, model.class_names, folder / "confusion.png", said)
        return
    lowest = 0.0
    if model.task == "detection":
        lowest = operating_threshold(parts)  # all boxes down to the lowest scores would hide the image
        intervals = {
            float(name.removeprefix("froc_")): (found.low, found.high)
            for name, found in scores.items()
            if name.startswith("froc_")
        }
        subtitle = f"hit: IoU at least 0.1; {len(parts)} cases, {sum(len(part.true_labels) for part in parts)} boxes"
        yield draw_froc({"all classes": froc(parts)}, folder / "froc.png", {"all classes": intervals}, subtitle)
    key, name = CASE_SCORE[model.task]
    chosen = list(worst_median_best([case[key] for case in cases]).values())
    again = predict_rows(model, [rows[place] for place in chosen], **prediction)
    shown = [
        _scored(model, found, truths(found), cases[place], key) for place, found in zip(chosen, again, strict=True)
    ]
    yield draw_cases(shown, folder / "cases.png", model.class_names, name, num_cases=len(cases), min_box_score=lowest)


def _scored(model: FinetunedModel, found: Prediction, truth: Any, case: Mapping[str, Any], key: str) -> ScoredCase:
    """A case on the file's own grid."""
    image = found.row[Keys.IMAGE]
    dims = len(found.shape)
    load = LoadSampled(Keys.IMAGE, "volume" if dims == 3 else "image")
    row: Any = found.row  # with its frame, where the file holds several
    grey = load(row)[Keys.IMAGE][0].as_tensor().numpy()
    first = image if isinstance(image, (str, Path)) else image[0]
    pictured = dims == 2 and file_suffix(first) in PICTURE_SUFFIXES
    affine = None if pictured else np.asarray(found.affine)
    if model.task == "segmentation":
        return ScoredCase(str(case["case"]), case[key], grey, affine, np.asarray(truth), np.asarray(found.value))
    boxes = np.asarray([one["box_voxel"] for one in found.value]).reshape(-1, 2 * dims)
    target = truth[Keys.BOX]
    if dims == 2:  # datalists count columns first, arrays rows
        boxes, target = boxes[:, [1, 0, 3, 2]], rows_first(target)
    return ScoredCase(
        str(case["case"]),
        case[key],
        grey,
        affine,
        target_boxes=np.asarray(target),
        boxes=boxes,
        box_scores=np.asarray([one["score"] for one in found.value]),
    )
