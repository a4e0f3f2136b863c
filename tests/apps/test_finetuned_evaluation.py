# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What ``evaluate`` says about a model is what others compute from the files that ``predict`` wrote."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from PIL import Image
from scipy import ndimage
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from monai_cluster.apps import FinetunedModel, evaluate, predict
from tests.apps.stand_ins import CLASSES, lesion_in_organ, levels, stand_in

Row = dict[str, Any]


@pytest.fixture
def model(monkeypatch) -> Callable[..., None]:
    """``model(one)`` makes ``predict`` and ``evaluate`` use it, whatever the weights are called."""

    def use(one: FinetunedModel) -> None:
        monkeypatch.setattr("monai_cluster.apps.prediction.load_finetuned", lambda path: one)
        monkeypatch.setattr("monai_cluster.apps.finetuned.load_finetuned", lambda path: one)
        monkeypatch.setattr("monai_cluster.apps.evaluation.is_finetuned", lambda path: True)

    return use


def listed(folder: Path, rows: list[Row]) -> str:
    (folder / "list.json").write_text(json.dumps({"test": rows}))
    return str(folder / "list.json")


def write_volumes(folder: Path) -> list[Row]:
    """Two volumes of each of three patients: the label is not quite what the image shows, in mm of its own."""
    rows = []
    for number in range(6):
        shown = np.roll(lesion_in_organ((22, 26, 9))[0], number % 3, axis=0)
        truth = shown.copy()
        truth[ndimage.binary_erosion(shown == 2, iterations=1) if number % 2 else truth == 0] = 1 if number % 2 else 0
        truth = np.roll(truth, number // 2, axis=1)
        affine = np.diag([-0.8, 0.6 + 0.2 * number, 3.0, 1.0])
        if number > 3:
            affine = affine[[2, 1, 0, 3]]
        nib.Nifti1Image(levels(shown), affine).to_filename(folder / f"image{number}.nii.gz")
        nib.Nifti1Image(truth, affine).to_filename(folder / f"label{number}.nii.gz")
        rows.append({"image": f"image{number}.nii.gz", "label": f"label{number}.nii.gz", "subject": f"p{number // 2}"})
    return rows


def read(path: Path) -> tuple[np.ndarray, list[float]]:
    image = nib.load(path)
    return np.asarray(image.dataobj), [float(length) for length in image.header.get_zooms()[:3]]


def table(out: Path) -> list[dict[str, str]]:
    with (out / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_intervals(scores: dict[str, dict[str, float]], names: list[str]) -> None:
    for name in names:
        one = scores[name]
        assert one["low"] <= one["value"] <= one["high"], name
        assert one["low"] < one["high"], name


# segmentation


def test_segmentation_scores_are_monais_on_the_written_files(tmp_path: Path, model) -> None:
    model(stand_in("segmentation"))
    rows = write_volumes(tmp_path)
    data = listed(tmp_path, rows)
    scores = evaluate("model", data, out=str(tmp_path / "evaluation"), device="cpu")
    predict("model", data, str(tmp_path / "predictions"), device="cpu")
    found: dict[str, list[np.ndarray]] = {"dice": [], "surface_distance_mm": [], "hd95_mm": []}
    for row in rows:
        predicted, spacing = read(tmp_path / "predictions" / row["image"])
        truth, _ = read(tmp_path / row["label"])
        one_hot = [np.stack([ids == number for number in range(3)])[None] for ids in (predicted, truth)]
        maps = [torch.from_numpy(one.astype(np.float32)) for one in one_hot]
        found["dice"].append(compute_dice(*maps, include_background=False)[0].numpy())
        options: dict[str, Any] = {"include_background": False, "spacing": spacing}
        found["surface_distance_mm"].append(
            compute_average_surface_distance(*maps, symmetric=True, **options)[0].numpy()
        )
        found["hd95_mm"].append(compute_hausdorff_distance(*maps, percentile=95, **options)[0].numpy())
    cases = table(tmp_path / "evaluation")
    assert [case["case"] for case in cases] == [row["image"] for row in rows]
    assert [case["patient"] for case in cases] == [row["subject"] for row in rows]
    for score, values in found.items():
        array = np.stack(values)
        assert np.isfinite(array).all()
        assert array.std() > 0
        for place, name in enumerate(("organ", "lesion")):
            assert scores[f"{score} of {name}"]["value"] == pytest.approx(array[:, place].mean(), rel=1e-4)
            for case, value in zip(cases, array[:, place], strict=True):
                assert float(case[f"{score} of {name}"]) == pytest.approx(value, rel=1e-4)
        assert scores[score]["value"] == pytest.approx(array.mean(), rel=1e-4)
    check_intervals(scores, ["dice", "dice of lesion", "surface_distance_mm"])
    written = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    assert written["scores"] == scores
    assert (written["num_cases"], written["num_patients"]) == (6, 3)
    assert (tmp_path / "evaluation" / "pictures" / "cases.png").stat().st_size > 10_000


def test_an_empty_mask_is_absent_missed_or_invented_as_the_policy_says(tmp_path: Path, model) -> None:
    model(stand_in("segmentation"))
    ids, _ = lesion_in_organ()
    healthy = np.minimum(ids, 1)
    pairs = [(ids, ids), (ids, healthy), (healthy * 2, ids), (healthy, np.minimum(healthy, 0))]
    rows = []
    for number, (shown, truth) in enumerate(pairs):
        nib.Nifti1Image(levels(shown), np.eye(4)).to_filename(tmp_path / f"image{number}.nii.gz")
        nib.Nifti1Image(truth, np.eye(4)).to_filename(tmp_path / f"label{number}.nii.gz")
        rows.append({"image": f"image{number}.nii.gz", "label": f"label{number}.nii.gz"})
    scores = evaluate("model", listed(tmp_path, rows), out=str(tmp_path / "out"), device="cpu")
    cases = table(tmp_path / "out")
    lesion = [case["dice of lesion"] for case in cases]
    assert float(lesion[0]) == 1, "found"
    assert float(lesion[1]) == 0, "invented"
    assert [case["missed of lesion"] for case in cases[:2]] == ["0.0", "1.0"]
    assert math.isnan(float(cases[1]["surface_distance_mm of lesion"]))
    organ = [float(case["dice of organ"]) for case in cases]
    assert organ[2] == 0, "called lesion instead: missed"
    assert float(cases[2]["missed of organ"]) == 1
    assert math.isnan(organ[3]), "percentiles show the organ as lesion, and nobody has one"
    assert float(cases[3]["absent of organ"]) == 1
    assert scores["dice of organ"]["value"] == pytest.approx(np.mean(organ[:3]))
    written = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert "scores Dice 0, has no distance and counts as missed" in written["empty_masks"]


@pytest.mark.parametrize("fault", ["mirrored", "shifted"])
def test_a_label_on_another_grid_is_not_scored(tmp_path: Path, model, fault: str) -> None:
    """A mirrored label has the image's shape: scores would only be bad."""
    model(stand_in("segmentation"))
    rows = write_volumes(tmp_path)
    ids, _ = read(tmp_path / "label2.nii.gz")
    affine = nib.load(tmp_path / "label2.nii.gz").affine
    if fault == "mirrored":
        affine = affine @ nib.orientations.inv_ornt_aff([[0, -1], [1, 1], [2, 1]], ids.shape)
    else:
        affine[1, 3] += 3
    nib.Nifti1Image(ids, affine).to_filename(tmp_path / "label2.nii.gz")
    with pytest.raises(ValueError, match=r"image2\.nii\.gz cannot be scored: image and label must lie on one grid"):
        evaluate("model", listed(tmp_path, rows), out=str(tmp_path / "out"), device="cpu")
    assert not (tmp_path / "out" / "scores.json").exists()


def test_frames_of_one_file_are_cases_of_their_own_and_are_drawn(tmp_path: Path, model) -> None:
    model(stand_in("segmentation"))
    ids, _ = lesion_in_organ()
    both = np.stack([ids, ids[::-1], np.roll(ids, 2, axis=1)], axis=-1)
    nib.Nifti1Image(levels(both), np.eye(4)).to_filename(tmp_path / "beat.nii.gz")
    rows: list[Row] = []
    for frame in range(3):
        truth = np.roll(both[..., frame], frame, axis=0)
        nib.Nifti1Image(truth, np.eye(4)).to_filename(tmp_path / f"label{frame}.nii.gz")
        rows.append({"image": "beat.nii.gz", "frame": frame, "label": f"label{frame}.nii.gz", "kind": "volume"})
    evaluate("model", listed(tmp_path, rows), out=str(tmp_path / "out"), device="cpu")
    cases = table(tmp_path / "out")
    assert [case["case"] for case in cases] == [f"beat.nii.gz#{frame}" for frame in range(3)]
    dice = [float(case["dice"]) for case in cases]
    assert dice[0] == 1 > dice[1] > dice[2]
    assert (tmp_path / "out" / "pictures" / "cases.png").is_file()


def test_pictures_are_scored_in_pixels(tmp_path: Path, model) -> None:
    model(stand_in("segmentation", dims=2))
    rows = []
    for number in range(2):
        ids, _ = lesion_in_organ((20, 26))
        Image.fromarray(levels(ids).astype(np.uint8)).save(tmp_path / f"image{number}.png")
        Image.fromarray(np.roll(ids, number, axis=1)).save(tmp_path / f"label{number}.png")
        rows.append({"image": f"image{number}.png", "label": f"label{number}.png", "subject": f"p{number}"})
    scores = evaluate("model", listed(tmp_path, rows), out=str(tmp_path / "out"), device="cpu")
    lesion = lesion_in_organ((20, 26))[0] == 2
    shifted = np.roll(lesion, 1, axis=1)
    dice = 2 * (lesion & shifted).sum() / (lesion.sum() + shifted.sum())
    assert scores["dice of lesion"]["value"] == pytest.approx((1 + dice) / 2)


# detection


def write_boxes(folder: Path, shape: tuple[int, ...] = (60, 70)) -> list[Row]:
    """Pictures with three bright squares each; the listed boxes are moved, missing, or more than there are."""
    rng = np.random.default_rng(2)
    rows = []
    for number in range(6):
        ids = np.zeros(shape, np.uint8)
        ids[5:50, 5:60] = 1
        listed_boxes = []
        for column, row in ((10, 12), (30, 14), (44, 30)):
            side = int(rng.integers(6, 12))
            ids[row : row + side, column : column + side] = 2
            dx, dy = (int(value) for value in rng.integers(-2, 3, size=2))
            listed_boxes.append([column + dx, row + dy, column + dx + side, row + dy + side])
        boxes = listed_boxes[: number % 3 + 1] + ([[60, 50, 66, 58]] if number == 4 else [])
        Image.fromarray(levels(ids).astype(np.uint8)).save(folder / f"image{number}.png")
        rows.append(
            {"image": f"image{number}.png", "box": boxes, "box_label": [0] * len(boxes), "subject": f"p{number // 2}"}
        )
    rows.append(rows[0] | {"image": "image6.png", "box": [], "box_label": [], "subject": "p3"})
    Image.fromarray(levels(ids).astype(np.uint8)).save(folder / "image6.png")
    return rows


def test_detection_scores_are_monais_on_the_written_boxes(tmp_path: Path, model) -> None:
    model(stand_in("detection", dims=2))
    rows = write_boxes(tmp_path)
    data = listed(tmp_path, rows)
    scores = evaluate("model", data, out=str(tmp_path / "out"), device="cpu")
    index = predict("model", data, str(tmp_path / "predictions"), device="cpu")
    found = [one["detections"] for one in json.loads(index.read_text())["predictions"]]
    metric = COCOMetric(["lesion"], iou_list=[0.1, 0.5], iou_range=(0.1, 0.5, 0.05), max_detection=[100])
    matched = matching_batch(
        iou_fn=box_iou,
        iou_thresholds=metric.iou_thresholds,
        pred_boxes=[np.array([box["box_voxel"] for box in one]).reshape(-1, 4) for one in found],
        pred_classes=[np.array([box["label"] for box in one], int) for one in found],
        pred_scores=[np.array([box["score"] for box in one]) for one in found],
        gt_boxes=[np.array(row["box"], float).reshape(-1, 4) for row in rows],
        gt_classes=[np.array(row["box_label"], int) for row in rows],
    )
    theirs = metric(matched)[0]
    assert scores["ap_10"]["value"] == pytest.approx(theirs["AP_IoU_0.10_MaxDet_100"], abs=1e-6)
    assert scores["ap_50"]["value"] == pytest.approx(theirs["AP_IoU_0.50_MaxDet_100"], abs=1e-6)
    assert scores["ap_10_50"]["value"] == pytest.approx(theirs["mAP_IoU_0.10_0.50_0.05_MaxDet_100"], abs=1e-6)
    assert 0.1 < scores["ap_50"]["value"] < scores["ap_10"]["value"] < 1
    check_intervals(scores, ["ap_50", "froc"])
    cases = table(tmp_path / "out")
    assert [case["case"] for case in cases] == [row["image"] for row in rows]
    assert [int(case["true_boxes"]) for case in cases] == [len(row["box"]) for row in rows]
    assert [int(case["detections"]) for case in cases] == [len(one) for one in found]
    assert {path.name for path in (tmp_path / "out" / "pictures").iterdir()} == {"froc.png", "cases.png"}


def test_a_box_of_a_class_that_the_model_has_not_is_refused(tmp_path: Path, model) -> None:
    model(stand_in("detection", dims=2))
    rows = write_boxes(tmp_path)
    rows[3]["box_label"] = [1]
    with pytest.raises(ValueError, match=r"image3\.png cannot be scored: the classes are lesion, numbered from 0"):
        evaluate("model", listed(tmp_path, rows), out=str(tmp_path / "out"), device="cpu")


# classification


def test_classification_scores_are_scikit_learns_on_the_written_probabilities(tmp_path: Path, model) -> None:
    model(stand_in("classification", dims=2))
    rng = np.random.default_rng(0)
    rows = []
    for number in range(14):
        pixels = np.zeros(400, np.uint8)
        label = "bright" if number % 3 else "dark"
        pixels[: int(400 * np.clip(rng.normal(0.62 if label == "bright" else 0.42, 0.15), 0.05, 0.95))] = 200
        Image.fromarray(pixels.reshape(20, 20)).save(tmp_path / f"image{number:02d}.png")
        rows.append({"image": f"image{number:02d}.png", "diagnosis": label, "subject": f"p{number // 2}"})
    data = listed(tmp_path, rows)
    scores = evaluate("model", data, label="diagnosis", out=str(tmp_path / "out"), device="cpu")
    index = predict("model", data, str(tmp_path / "predictions"), device="cpu")
    bright = [one["probabilities"]["bright"] for one in json.loads(index.read_text())["predictions"]]
    truth = [row["diagnosis"] == "bright" for row in rows]
    called = [value > 0.5 for value in bright]
    assert scores["auc"]["value"] == pytest.approx(roc_auc_score(truth, bright))
    assert scores["accuracy"]["value"] == pytest.approx(accuracy_score(truth, called))
    assert scores["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(truth, called))
    assert 0.5 < scores["auc"]["value"] < 1
    check_intervals(scores, ["auc", "accuracy"])
    cases = table(tmp_path / "out")
    assert [(case["case"], case["truth"]) for case in cases] == [(row["image"], row["diagnosis"]) for row in rows]
    assert [case["prediction"] for case in cases] == [CLASSES["classification"][one] for one in called]
    assert (tmp_path / "out" / "pictures" / "confusion.png").is_file()


def test_an_unknown_class_and_a_missing_label_are_refused(tmp_path: Path, model) -> None:
    model(stand_in("classification", dims=2))
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "one.png")
    data = listed(tmp_path, [{"image": "one.png", "label": "purple"}])
    with pytest.raises(ValueError, match=r"the classes are dark, bright; some rows have purple in 'label'"):
        evaluate("model", data, out=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"evaluation needs rows with 'grade', got 1 rows of which 1 lack it"):
        evaluate("model", data, label="grade", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_earlier_evaluation_is_not_written_over(tmp_path: Path, model) -> None:
    model(stand_in("classification", dims=2))
    (tmp_path / "run" / "evaluation").mkdir(parents=True)
    (tmp_path / "run" / "evaluation" / "scores.json").write_text("earlier")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "one.png")
    data = listed(tmp_path, [{"image": "one.png", "label": "dark"}])
    (tmp_path / "run" / "exported").mkdir()
    with pytest.raises(FileExistsError, match=r"evaluation is not empty: choose another folder with out"):
        evaluate(str(tmp_path / "run"), data)
    assert (tmp_path / "run" / "evaluation" / "scores.json").read_text() == "earlier"
