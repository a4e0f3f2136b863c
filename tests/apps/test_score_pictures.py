# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""FROC, confusion and few-label pictures: the numbers in them are the numbers given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import monai_cluster.apps.picture_confusion as picture_confusion
import monai_cluster.apps.picture_fewlabel as picture_fewlabel
import monai_cluster.apps.picture_froc as picture_froc
from monai_cluster.apps.picture_style import GREY, PALETTE
from monai_cluster.apps.pictures import FewLabelPoint, draw_confusion, draw_fewlabel, draw_froc
from monai_cluster.metrics.detection_scores import FrocCurve


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is saved, for looking into it."""
    kept: list[Any] = []
    for module in (picture_confusion, picture_fewlabel, picture_froc):
        write = module.save

        def keep(figure: Any, path: Any, write: Any = write) -> Path:
            kept.append(figure)
            return write(figure, path)

        monkeypatch.setattr(module, "save", keep)
    return kept


def assert_drawn(path: Path) -> None:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def curve(scale: float) -> FrocCurve:
    false, found = np.array([0.0, 0.5, 2.0, 6.0]), scale * np.array([0.0, 0.4, 0.7, 1.0])
    at_rates = {rate: float(np.interp(rate, false, found)) for rate in (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)}
    return FrocCurve(false, found, at_rates, float(np.mean(list(at_rates.values()))))


def test_froc_shows_every_curve_its_rates_its_mean_and_its_intervals(tmp_path: Path, figures: list[Any]) -> None:
    curves = {"ours": curve(1.0), "scratch": curve(0.5)}
    intervals = {"ours": {0.5: (0.3, 0.5), 2.0: (0.6, 0.8)}}
    assert_drawn(draw_froc(curves, tmp_path / "new" / "f.png", intervals, "IoU ≥ .1"))
    axes = figures[0].axes[0]
    line, dots, *rest = axes.lines
    across, sensitivity = line.get_data()
    assert sensitivity == pytest.approx(np.interp(across, curves["ours"].false_positives, curves["ours"].sensitivity))
    assert dict(zip(*dots.get_data(), strict=True)) == curves["ours"].at_rates
    assert [list(bar.get_ydata()) for bar in rest[:2]] == [[0.3, 0.5], [0.6, 0.8]]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"{name} (mean {found.mean:.3f})" for name, found in curves.items()]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    assert axes.get_title().endswith("IoU ≥ .1")


def test_froc_without_detections_or_without_boxes_is_drawn_and_without_curves_refused(tmp_path: Path) -> None:
    nothing = FrocCurve(np.zeros(1), np.zeros(1), dict.fromkeys((0.125, 8.0), 0.0), 0.0)
    undefined = FrocCurve(np.zeros(1), np.full(1, math.nan), dict.fromkeys((0.125, 8.0), math.nan), math.nan)
    assert_drawn(draw_froc({"none": nothing, "no boxes": undefined}, tmp_path / "f.png"))
    with pytest.raises(ValueError, match="at least one curve"):
        draw_froc({}, tmp_path / "f.png")


def test_confusion_shows_counts_and_shares_of_the_true_class(tmp_path: Path, figures: list[Any]) -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0], [5, 0, 15]])
    assert_drawn(draw_confusion(counts, ["a", "b", "c"], tmp_path / "c.png", "AUC .9"))
    axes = figures[0].axes[0]
    shares = np.ma.masked_invalid(axes.images[0].get_array()).filled(-1)
    assert shares == pytest.approx(np.array([[0.75, 0.25, 0], [-1, -1, -1], [0.25, 0, 0.75]]))
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["3\n75%", "1\n25%", "0\n0%", "0", "0", "0", "5\n25%", "0\n0%", "15\n75%"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a (4)", "b (0)", "c (20)"]
    assert axes.get_title() == "Confusion matrix, n = 24\nAUC .9"


@pytest.mark.parametrize("number", [1, 2, 14])
def test_few_and_many_classes_with_long_names_are_drawn(tmp_path: Path, number: int) -> None:
    names = [f"a rather long diagnosis {place}" for place in range(number)]
    assert_drawn(draw_confusion(np.eye(number, dtype=int) * 9, names, tmp_path / "c.png"))


@pytest.mark.parametrize(
    ("counts", "names"), [(np.ones((2, 3)), "ab"), (np.ones((2, 2)), "abc"), (np.ones((0, 0)), "")]
)
def test_a_table_that_is_not_square_or_lacks_names_is_refused(tmp_path: Path, counts: Any, names: str) -> None:
    with pytest.raises(ValueError, match="counts K K and K names"):
        draw_confusion(counts, list(names), tmp_path / "c.png")


def test_fewlabel_has_a_colour_per_initialisation_and_a_line_per_schedule(tmp_path: Path, figures: list[Any]) -> None:
    points = [
        FewLabelPoint("ours", "frozen", 8, 0.7, 0.65, 0.75),
        FewLabelPoint("ours", "frozen", 4, 0.6, 0.55, 0.65),
        FewLabelPoint("scratch", "full", 8, 0.6, 0.5, 0.7, (0.58, 0.62)),
        FewLabelPoint("scratch", "full", 4, 0.5, 0.4, 0.6),
        FewLabelPoint("ours", "full", 4, 0.65),
        FewLabelPoint("ours", "full", 8, math.nan),
    ]
    assert_drawn(draw_fewlabel(points, tmp_path / "f.png", "Dice", {"atlas": 0.61}, "3 seeds"))
    axes = figures[0].axes[0]
    drawn = {(line.get_color(), line.get_linestyle()): line for line in axes.lines if line.get_color() != GREY}
    frozen, full, scratch = drawn[PALETTE[0], "--"], drawn[PALETTE[0], "-"], drawn[PALETTE[1], "-"]
    assert frozen.get_ydata() == pytest.approx([0.6, 0.7])
    assert frozen.get_xdata() == pytest.approx([4, 8], rel=0.05)
    assert full.get_ydata() == pytest.approx([0.65])
    assert scratch.get_ydata() == pytest.approx([0.5, 0.6])
    bands = [band.get_paths()[0].vertices[:, 1] for band in axes.collections]
    assert sorted((band.min(), band.max()) for band in bands) == [(0.4, 0.7), (0.55, 0.75)]
    assert [(line.get_ydata()[0], line.get_label()) for line in axes.lines if line.get_color() == GREY] == [
        (0.61, "atlas: 0.61")
    ]
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [list(line.get_ydata()) for line in dots] == [[0.58, 0.62]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "ours", "scratch", "full", "frozen", "atlas: 0.61",
    ]  # fmt: skip
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8"]


def test_fewlabel_draws_a_lone_point_with_its_interval_and_refuses_none(tmp_path: Path, figures: list[Any]) -> None:
    assert_drawn(draw_fewlabel([FewLabelPoint("a", "decoder_first", 5, 0.6, 0.5, 0.7)], tmp_path / "f.png", "AUC"))
    assert [0.5, 0.7] in [list(line.get_ydata()) for line in figures[0].axes[0].lines]
    with pytest.raises(ValueError, match="at least one point with a score"):
        draw_fewlabel([FewLabelPoint("a", "full", 5, math.nan)], tmp_path / "f.png", "AUC")
