# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Average precision and FROC against MONAI's and against cases worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou
from monai.metrics import compute_froc_curve_data, compute_froc_score

from monai_cluster.metrics import (
    average_precision,
    froc,
    match_case,
    operating_threshold,
    score_cases,
    score_detections,
)
from monai_cluster.metrics.detection_scores import IOU_THRESHOLDS

BOX = [0.0, 0, 10, 10]
FAR = [50.0, 50, 60, 60]


def found(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> dict[str, torch.Tensor]:
    return {
        "box": torch.tensor(boxes).reshape(-1, 4),
        "box_label": torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
        "score": torch.tensor(scores),
    }


def true(boxes: list[list[float]], labels: list[int] | None = None) -> dict[str, torch.Tensor]:
    return {
        "box": torch.tensor(boxes).reshape(-1, 4),
        "box_label": torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
    }


def noisy_cases(dims: int, seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cases of three classes; predictions are shaken truth, doubles and false alarms; one case has no box."""
    generator = np.random.default_rng(seed)
    predictions, targets = [], []
    for case in range(9):
        number = 0 if case == 4 else int(generator.integers(1, 6))
        low = generator.uniform(0, 80, (number, dims))
        boxes = np.concatenate([low, low + generator.uniform(8, 25, (number, dims))], axis=1)
        labels = generator.integers(0, 3, number)
        targets.append({"box": torch.from_numpy(boxes), "box_label": torch.from_numpy(labels)})
        shaken = np.concatenate([boxes + generator.normal(0, 2.0, boxes.shape) for _ in range(2)])
        alarms = generator.uniform(0, 80, (4, dims))
        every = np.concatenate([shaken, np.concatenate([alarms, alarms + 12], axis=1)])
        classes = np.concatenate([labels, labels, generator.integers(0, 3, 4)])
        scores = generator.uniform(0, 1, len(every)).astype(np.float32)
        predictions.append(
            {"box": torch.from_numpy(every), "box_label": torch.from_numpy(classes), "score": torch.from_numpy(scores)}
        )
    return predictions, targets


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("limit", [100, 3])
def test_average_precision_equals_monai(dims: int, limit: int) -> None:
    # Numbers of boxes without common divisor with 100: MONAI's float32 takes 7 of 10 for less than .7.
    predictions, targets = noisy_cases(dims, seed=[5, 29][dims - 2])
    metric = COCOMetric(["a", "b", "c"], iou_list=[0.1, 0.5], iou_range=[0.1, 0.5, 0.05], max_detection=[limit])
    matches = matching_batch(
        iou_fn=box_iou,
        iou_thresholds=metric.iou_thresholds,
        pred_boxes=[case["box"].numpy() for case in predictions],
        pred_classes=[case["box_label"].numpy() for case in predictions],
        pred_scores=[case["score"].numpy() for case in predictions],
        gt_boxes=[case["box"].numpy() for case in targets],
        gt_classes=[case["box_label"].numpy() for case in targets],
        max_detections=limit,
    )
    expected = metric(matches)[0]
    mine = score_detections(predictions, targets, ["a", "b", "c"], max_detections=limit)
    theirs = {"ap_10": "AP_IoU_0.10", "ap_50": "AP_IoU_0.50", "ap_10_50": "mAP_IoU_0.10_0.50_0.05"}
    theirs |= {f"ap_50 {name}": f"{name}_AP_IoU_0.50" for name in "abc"}
    for name, other in theirs.items():
        assert mine[name] == pytest.approx(expected[f"{other}_MaxDet_{limit}"], abs=1e-6), name
    assert 0.1 < mine["ap_50"] < 0.9


def test_froc_equals_monai() -> None:
    predictions, targets = noisy_cases(3)
    cases = [match_case(*pair) for pair in zip(predictions, targets, strict=True)]
    place = IOU_THRESHOLDS.index(0.3)
    hits = np.concatenate([case.hits[place] for case in cases])
    scores = np.concatenate([case.scores for case in cases])
    boxes = sum(len(case.true_labels) for case in cases)
    # MONAI leaves the operating point of the lowest score out: give it one that counts for nothing.
    fps, sensitivity = compute_froc_curve_data(np.append(scores[~hits], -1.0), scores[hits], boxes, len(cases))
    rates = (0.125, 0.25, 0.5, 1, 2, 4, 8)
    curve = froc(cases, iou=0.3, rates=rates)
    assert curve.mean == pytest.approx(compute_froc_score(fps, sensitivity, rates))
    for rate in rates:
        assert curve.at_rates[rate] == pytest.approx(compute_froc_score(fps, sensitivity, (rate,)))
    assert curve.at_rates[0.125] < curve.at_rates[4.0]


def test_every_box_found_first_scores_one() -> None:
    scores = score_detections([found([BOX, FAR], [0.9, 0.8])], [true([BOX, FAR])])
    assert set(scores.values()) == {1.0}


def test_a_false_alarm_before_the_hit_halves_precision() -> None:
    case = match_case(found([FAR, BOX], [0.9, 0.8]), true([BOX]))
    assert average_precision([case], 0) == pytest.approx(0.5)


def test_half_of_the_boxes_found_gives_the_share_of_recalls_reached() -> None:
    case = match_case(found([BOX], [0.9]), true([BOX, FAR]))
    assert average_precision([case], 0) == pytest.approx(51 / 101)  # recalls 0, .01 … .50


def test_iou_decides_at_which_thresholds_a_detection_hits() -> None:
    case = match_case(found([[0, 0, 10, 6]], [0.9]), true([BOX]))  # IoU .6
    assert case.hits[:, 0].tolist() == [threshold <= 0.6 for threshold in IOU_THRESHOLDS]


def test_the_second_detection_of_a_box_is_false() -> None:
    case = match_case(found([BOX, BOX], [0.7, 0.9]), true([BOX]))
    assert case.scores == pytest.approx([0.9, 0.7])
    assert case.hits[0].tolist() == [True, False]


def test_a_detection_takes_the_box_it_overlaps_most_and_leaves_the_other_free() -> None:
    near = [5.0, 0, 15, 10]
    case = match_case(found([[4, 0, 14, 10], BOX], [0.9, 0.8]), true([BOX, near]))
    assert case.hits[IOU_THRESHOLDS.index(0.5)].tolist() == [True, True]


def test_the_wrong_class_is_a_false_alarm() -> None:
    case = match_case(found([BOX], [0.9], [1]), true([BOX], [0]))
    assert not case.hits.any()
    assert froc([case]).mean == 0


def test_no_detection_scores_zero_and_no_box_is_not_a_number() -> None:
    silent = score_detections([found([], [])], [true([BOX])])
    assert silent["ap_50"] == 0
    assert silent["froc"] == 0
    healthy = score_detections([found([BOX], [0.9])], [true([])], ["tumour"])
    assert np.isnan(healthy["ap_50"])
    assert np.isnan(healthy["ap_50 tumour"])
    assert np.isnan(healthy["froc"])


def test_a_class_without_boxes_stays_out_of_the_mean() -> None:
    scores = score_detections([found([BOX], [0.9])], [true([BOX])], ["seen", "absent"])
    assert scores["ap_50"] == 1
    assert np.isnan(scores["ap_50 absent"])


def test_cases_without_boxes_count_as_scans() -> None:
    sick = match_case(found([FAR, BOX], [0.9, 0.8]), true([BOX]))
    healthy = match_case(found([], []), true([]))
    assert froc([sick]).false_positives.tolist() == [0, 1, 1]
    assert froc([sick, healthy]).false_positives.tolist() == [0, 0.5, 0.5]
    # One false alarm in eight scans before the only box: half way to it, half of the sensitivity.
    assert froc([sick, *[healthy] * 7], rates=(1 / 16, 1 / 8)).at_rates == {1 / 16: 0.0, 1 / 8: 1.0}


def test_equal_scores_cross_the_threshold_together() -> None:
    case = match_case(found([FAR, BOX], [0.8, 0.8]), true([BOX]))
    curve = froc([case])
    assert curve.false_positives.tolist() == [0, 1]
    assert curve.sensitivity.tolist() == [0, 1]


def test_scores_of_all_cases_follow_from_matches_of_each() -> None:
    predictions, targets = noisy_cases(2)
    cases = [match_case(*pair) for pair in zip(predictions, targets, strict=True)]
    assert score_cases(cases, ["a", "b", "c"]) == score_detections(predictions, targets, ["a", "b", "c"])
    # A bootstrap draws cases with replacement: twice each changes nothing.
    assert score_cases(cases * 2)["froc"] == pytest.approx(score_cases(cases)["froc"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a label and a score"):
        match_case({**found([BOX], [0.9]), "score": torch.ones(2)}, true([BOX]))
    with pytest.raises(ValueError, match="prediction and target"):
        score_detections([], [true([BOX])])
    with pytest.raises(ValueError, match="iou must be one of"):
        froc([match_case(found([], []), true([BOX]))], iou=0.33)


def test_seven_of_ten_boxes_reach_the_recall_of_seven_tenths() -> None:
    places = [[20.0 * column, 0, 20.0 * column + 10, 10] for column in range(10)]
    case = match_case(found(places[:7], [0.9 - 0.1 * rank for rank in range(7)]), true(places))
    assert average_precision([case], 0) == pytest.approx(71 / 101)


def test_the_operating_threshold_leaves_one_false_positive_per_case() -> None:
    boxes = [[20.0 * place, 0, 20.0 * place + 9, 9] for place in range(4)]
    detections = found(boxes, [0.9, 0.8, 0.6, 0.4])
    one = match_case(detections, found(boxes[:1], [1.0]))
    two = match_case(detections, found([], []))
    # False are .8, .6, .4 of the first and .9, .8, .6, .4 of the second. Two may stay, but the two .8 go together.
    assert 0.8 < operating_threshold([one, two]) < 0.8 + 1e-6
    assert 0.6 < operating_threshold([one]) < 0.6 + 1e-6
    assert operating_threshold([one], false_positives=3) == 0
