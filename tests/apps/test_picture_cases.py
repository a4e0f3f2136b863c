# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which cases, slices and details are drawn, and that anatomy, label and boxes are turned alike however files lie."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

import monai_cluster.apps.picture_cases as picture_cases
from monai_cluster.apps.picture_plane import ViewingPlane, add_scale_bar, viewing_plane
from monai_cluster.apps.picture_style import grey_levels, new_figure
from monai_cluster.apps.pictures import ScoredCase, draw_cases, worst_median_best
from monai_cluster.apps.scored_case import boxes_on_slice, detail, most_labelled_slice
from monai_cluster.data import read_image

CODES = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]  # fmt: skip
SPACING = (0.8, 1.2, 3.0)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is saved, for looking into it."""
    kept: list[Any] = []
    write = picture_cases.save

    def keep(figure: Any, path: Any) -> Path:
        kept.append(figure)
        return write(figure, path)

    monkeypatch.setattr(picture_cases, "save", keep)
    return kept


def volume(codes: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One scene stored in any orientation: image, label, affine, and the box of the label in the stored array."""
    rng = np.random.default_rng(0)
    image, label = rng.random((10, 13, 5)), np.zeros((10, 13, 5), int)
    label[1:4, 2:9, 1:3] = 1
    affine = np.diag([*SPACING, 1.0])
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    stored, ids = (nib.orientations.apply_orientation(array, turn) for array in (image, label))
    inside = np.argwhere(ids)
    return (
        stored,
        ids,
        affine @ nib.orientations.inv_ornt_aff(turn, image.shape),
        np.concatenate([inside.min(0), inside.max(0) + 1]),
    )


def test_there_are_48_ways_to_store_a_volume() -> None:
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("codes", CODES)
def test_every_stored_orientation_is_shown_alike(codes: str) -> None:
    image, label, affine, box = volume(codes)
    plane = viewing_plane(image.shape, affine)
    reference, _, _, _ = volume("RAS")
    shown = plane.picture(image, 2)
    # An RAS array, seen from the feet with the front on top: rows run to the back, columns to the patient's left.
    assert np.array_equal(shown, reference[::-1, ::-1, 2].T)
    assert plane.letters == ("R", "L", "A", "P")
    assert plane.spacing == pytest.approx((1.2, 0.8))
    where = np.argwhere(plane.picture(label, 2))
    (top, left), (bottom, right) = where.min(0), where.max(0) + 1
    assert plane.rectangle(box) == (top, bottom, left, right)


@pytest.mark.parametrize(
    ("longest", "letters"), [(2, ("R", "L", "A", "P")), (1, ("R", "L", "S", "I")), (0, ("A", "P", "S", "I"))]
)
def test_planes_across_the_longest_voxels_have_the_head_or_the_front_on_top(
    longest: int, letters: tuple[str, ...]
) -> None:
    steps = np.ones(4)
    steps[longest] = 5
    plane = viewing_plane((6, 7, 8), np.diag(steps))
    assert (plane.slice_axis, plane.letters) == (longest, letters)


def test_an_axis_of_length_one_is_the_slice_axis() -> None:
    assert viewing_plane((6, 1, 8), np.diag([1.0, 0.5, 3, 1])).slice_axis == 1


def test_the_last_axis_is_sliced_where_voxels_are_cubes_and_oblique_sides_get_two_letters() -> None:
    angle = math.radians(30)
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn
    plane = viewing_plane((6, 7, 8), affine)
    assert plane.slice_axis == 2
    assert plane.letters == ("RA", "LP", "AL", "PR")
    affine[:3, :3] = np.eye(3)
    affine[0, 1] = 0.1  # 6 degrees do not count
    assert viewing_plane((6, 7, 8), affine).letters == ("R", "L", "A", "P")


def test_pictures_have_no_sides_and_no_scale_and_stay_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "p.png")
    picture = read_image(tmp_path / "p.png")
    plane = viewing_plane(picture.shape[1:], picture.affine)
    assert (plane.letters, plane.spacing) == ((), None)
    assert np.array_equal(plane.picture(picture[0].numpy()), np.arange(12).reshape(3, 4))
    assert viewing_plane((3, 4), np.diag([2.0, 3, 1, 1])).spacing == (2, 3)
    with pytest.raises(ValueError, match="choose one channel"):
        viewing_plane((1, 3, 4, 5))


@pytest.mark.parametrize(("width", "spacing", "length"), [(100, 1.0, 20), (32, 1.0, 5), (400, 0.7, 50), (9, 0.1, 1)])
def test_the_bar_is_as_long_as_it_says(width: int, spacing: float, length: int) -> None:
    axes = new_figure(3, 3).add_subplot()
    axes.set_xlim(0, width)
    add_scale_bar(axes, ViewingPlane((0, 1), (False, False), (width, width), None, (spacing, spacing), ()))
    (bar,) = axes.lines
    start, end = bar.get_xdata()
    assert (end - start) * width * spacing == pytest.approx(length)
    assert axes.texts[0].get_text() == f"{length} mm"


def test_worst_median_and_best_leave_cases_without_a_score_out() -> None:
    assert worst_median_best([0.5, math.nan, 0.1, 0.9, 0.7]) == {"worst": 2, "median": 0, "best": 3}
    assert worst_median_best([0.5, 0.1]) == {"worst": 1, "best": 0}
    assert worst_median_best([math.nan, 0.3]) == {"only": 1}
    assert worst_median_best([math.nan, math.nan]) == {"no score": 0}
    three = [0.4, 0.4, 0.8]
    assert list(worst_median_best(three).values()) == [0, 1, 2]  # choosing among the chosen changes nothing
    with pytest.raises(ValueError, match="at least one case"):
        worst_median_best([])


def test_the_slice_with_most_of_the_truth_is_drawn_else_of_the_prediction_else_the_middle() -> None:
    image, many, few = np.zeros((6, 6, 9)), np.zeros((6, 6, 9), int), np.zeros((6, 6, 9), int)
    many[:4, :4, 3], many[:2, :2, 7], few[1, 1, 5] = 2, 1, 1
    plane = viewing_plane(image.shape)

    def chosen(**marks: Any) -> int | None:
        return most_labelled_slice(ScoredCase("a", 0.5, image, **marks), plane)

    assert chosen(target=many, prediction=few) == 3
    assert chosen(target=few * 0, prediction=few) == 5
    assert chosen() == 4
    assert chosen(target_boxes=[[0, 0, 6, 2, 2, 9], [0, 0, 5, 6, 6, 7]]) == 6  # inside both boxes
    assert chosen(boxes=[[0, 0, 0, 2, 2, 1], [0, 0, 8, 2, 2, 9]], box_scores=[0.2, 0.6]) == 8


def test_boxes_are_drawn_on_the_slices_that_they_cross_best_first() -> None:
    plane = viewing_plane((50, 50, 9))
    boxes = [[2, 3, 1, 7, 9, 4]] + [[index, 0, 2, index + 5, 5, 3] for index in range(20)]
    case = ScoredCase(
        "a",
        0.5,
        np.zeros((50, 50, 9)),
        target_boxes=boxes[:1],
        boxes=boxes,
        box_scores=[0.99] + [0.04 * i for i in range(20)],
    )
    true, found = boxes_on_slice(case, plane, 2, 0.1)
    assert true == [(2, 7, 3, 9)]
    assert [score for _, score in found] == pytest.approx([0.99] + [0.04 * i for i in range(19, 8, -1)])
    assert [len(item) for item in boxes_on_slice(case, plane, 3, 0.1)] == [1, 1]  # box ends are half-open
    assert [len(item) for item in boxes_on_slice(case, plane, 4, 0.1)] == [0, 0]


def test_the_detail_holds_truth_and_prediction_and_is_square_in_millimetres() -> None:
    target, prediction = np.zeros((2, 100, 80), int)
    target[10:14, 60:70], prediction[12:16, 66:72] = 1, 1
    case = ScoredCase("a", 0.5, target * 1.0, np.diag([2.0, 1, 1, 1]), target, prediction)
    plane = viewing_plane((100, 80), case.affine)
    top, bottom, left, right = detail(case, plane, None, 0)
    assert top <= 10
    assert bottom >= 16
    assert left <= 60
    assert right >= 72
    assert 2 * (bottom - top) == pytest.approx(right - left)
    assert 0 <= top < bottom <= 100
    assert 0 <= left < right <= 80
    nothing = ScoredCase("a", 0.5, target, case.affine, target * 0)
    assert detail(nothing, plane, None, 0) == (0, 100, 0, 80)


def test_drawn_cases_hold_image_regions_and_titles(tmp_path: Path, figures: list[Any]) -> None:
    cases = []
    for score, steps in ((0.9, 0), (0.3, 2), (0.6, 1), (math.nan, 0)):
        image, label, affine, _ = volume("LPS")
        cases.append(ScoredCase(f"case {score}", score, image, affine, label, np.roll(label, steps, 0)))
    path = draw_cases(cases, tmp_path / "new" / "c.png", ["background", "liver"])
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    (figure,) = figures
    assert figure.get_suptitle() == "Cases by Dice, n = 4"
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [
        "worst: case 0.3\nDice 0.300, slice 2 of 5",
        "median: case 0.6\nDice 0.600, slice 2 of 5",
        "best: case 0.9\nDice 0.900, slice 2 of 5",
    ]
    plane = viewing_plane(cases[1].image.shape, cases[1].affine)
    above, below = figure.axes[:2]
    assert np.array_equal(above.images[0].get_array(), grey_levels(plane.picture(cases[1].image, 1)))
    assert len(above.collections) == 0
    filled, halo, line = below.collections
    for drawn, ids in ((filled, cases[1].target), (halo, cases[1].prediction), (line, cases[1].prediction)):
        where = np.argwhere(plane.picture(ids, 1))
        corners = np.concatenate([part.vertices for part in drawn.get_paths()])
        # Outlines run half way between the centres of neighbouring voxels, which is along voxel edges.
        assert corners.min(0).tolist() == where.min(0)[::-1].tolist()
        assert corners.max(0).tolist() == (where.max(0) + 1)[::-1].tolist()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["liver", "truth: filled", "prediction: line"]
    assert [text.get_text() for text in below.texts[:4]] == ["R", "L", "A", "P"]


def test_drawn_boxes_have_scores_and_stand_where_the_arrays_boxes_are(tmp_path: Path, figures: list[Any]) -> None:
    image, _, affine, box = volume("AIL")
    plane = viewing_plane(image.shape, affine)
    moved = box + np.tile(np.arange(3) != plane.slice_axis, 2)
    case = ScoredCase("a", 0.5, image, affine, target_boxes=[box], boxes=[moved], box_scores=[0.25], caption="why")
    draw_cases([case], tmp_path / "c.png", score_name="AP")
    below = figures[0].axes[1]
    drawn = [patch.get_bbox().extents.tolist() for patch in below.patches if isinstance(patch, Rectangle)]
    expected = [plane.rectangle(found) for found in (box, moved)]
    assert drawn == [[left, top, right, bottom] for top, bottom, left, right in expected]
    assert below.texts[0].get_text() == "0.25"
    assert figures[0].axes[0].get_title().startswith("only: a\nAP 0.500, slice ")
    assert figures[0].axes[0].get_title().endswith("\nwhy")


def test_odd_cases_are_drawn_and_wrong_ones_refused(tmp_path: Path, figures: list[Any]) -> None:
    flat = np.zeros((20, 30))
    odd = [
        ScoredCase("n" * 90, math.nan, flat, target=flat.astype(int), prediction=flat.astype(int)),
        ScoredCase("a", math.nan, np.full((4, 4, 1), np.nan), np.eye(4), target_boxes=[], boxes=[]),
        ScoredCase("a", 0.5, flat, prediction=np.full((20, 30), 300)),
        ScoredCase("a", 0.5, flat, target=np.eye(20, 30, dtype=int), boxes=[[-3.0, -3, 90, 90]]),
    ]
    for case in odd:
        assert draw_cases([case], tmp_path / "odd.png").is_file()
    assert "not defined" in figures[0].axes[0].get_title()
    draw_cases([ScoredCase("a", 0.5, flat), ScoredCase("b", 0.7, flat)], tmp_path / "plain.png")
    assert len(figures[-1].axes) == 2  # nothing to mark: one row
    with pytest.raises(ValueError, match="target of b must be on the image's grid"):
        draw_cases([ScoredCase("b", 0.5, flat, target=flat[1:])], tmp_path / "c.png")
    with pytest.raises(ValueError, match="at least one case"):
        draw_cases([], tmp_path / "c.png")


@pytest.mark.shared_data
def test_real_tumours_are_brighter_inside_their_drawn_boxes(shared_data: Path) -> None:
    root = shared_data / "brain_tumor_det2d"
    inside, ring = [], []
    for row in json.loads((root / "datalist.json").read_text())["test"][:12]:
        picture = read_image(root / row["image"])[0].numpy()
        boxes = np.asarray(row["box"], float).reshape(-1, 4)[:, [1, 0, 3, 2]]
        plane = viewing_plane(picture.shape)
        for box in boxes:
            top, bottom, left, right = (round(edge) for edge in plane.rectangle(box))
            inside.append(picture[top:bottom, left:right].mean())
            ring.append(np.flip(picture)[top:bottom, left:right].mean())  # the mirrored place
    assert np.mean(np.array(inside) > np.array(ring)) > 0.75
