# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What the pictures show, read back from the drawn axes and pixels, and that odd input draws too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import monai_cluster.apps.picture_attention as picture_attention
import monai_cluster.apps.picture_curves as picture_curves
import monai_cluster.apps.picture_map as picture_map
import monai_cluster.apps.picture_neighbours as picture_neighbours
from monai_cluster.apps.picture_style import category_styles, grey_levels, shortened
from monai_cluster.apps.pictures import draw_attention, draw_curves, draw_embedding_map, draw_neighbours


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is saved, for looking into it."""
    kept: list[Any] = []
    for module in (picture_attention, picture_curves, picture_map, picture_neighbours):
        write = module.save

        def keep(figure: Any, path: Any, write: Any = write) -> Path:
            kept.append(figure)
            return write(figure, path)

        monkeypatch.setattr(module, "save", keep)
    return kept


def panels_of(figure: Any) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in figure.axes}


def assert_drawn(path: Path) -> None:
    """A PNG with more on it than background."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def write_metrics(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_curves_hold_the_files_numbers_with_log_k_and_gaps(tmp_path: Path, figures: list[Any]) -> None:
    records: list[dict[str, Any]] = [
        {"epoch": e, "image_loss": 5.0 - e, "image_uniform": 3.0, "lr": 0.1 * e, "unknown": e} for e in (1, 2, 3)
    ]
    records[1]["image_loss"] = None
    source = write_metrics(tmp_path / "metrics.jsonl", records)
    with source.open("a") as file:
        file.write('{"epoch": 4, "image_')
    assert_drawn(draw_curves(source, tmp_path / "new" / "curves.png"))
    panels = panels_of(figures[0])
    assert sorted(panels) == ["Clustering losses; dashed: constant predictions", "Learning rate"]
    losses = panels["Clustering losses; dashed: constant predictions"]
    curve, log_k = losses.lines
    assert curve.get_xdata().tolist() == [1, 2, 3]
    assert np.array_equal(curve.get_ydata(), [4.0, np.nan, 2.0], equal_nan=True)
    assert list(log_k.get_ydata()) == [3.0, 3.0]
    assert log_k.get_label() == "image: log K, K = 20"
    assert losses.get_xlabel() == "epoch"
    assert "nats" in losses.get_ylabel()


def test_every_panel_is_drawn_once_it_has_numbers(tmp_path: Path, figures: list[Any]) -> None:
    names = [
        "image_loss", "volume_loss", "loss", "mask_loss", "mask_ratio_to_mean", "mask_ratio_to_neighbours", "lr",
        "image_target_perplexity", "image_assignment_perplexity", "volume_occupancy", "volume_churn",
        "slice_feature_std", "image_rank_me", "probe_knn_accuracy", "probe_cluster_nmi",
    ]  # fmt: skip
    records = [{"epoch": epoch, **dict.fromkeys(names, 1.0 / epoch)} for epoch in (1, 2)]
    draw_curves(write_metrics(tmp_path / "m.jsonl", records), tmp_path / "c.png")
    panels = panels_of(figures[0])
    assert len(panels) == len(picture_curves.PANELS)
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in panels.values())


def test_probes_that_run_now_and_then_are_joined(tmp_path: Path, figures: list[Any]) -> None:
    records = [{"epoch": e} | ({"knn_accuracy": e / 10} if e % 2 else {}) for e in range(1, 6)]
    draw_curves(write_metrics(tmp_path / "m.jsonl", records), tmp_path / "c.png")
    (line,) = figures[0].axes[0].lines
    assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == [(1, 0.1), (3, 0.3), (5, 0.5)]


def test_curves_of_one_epoch_are_drawn_and_of_none_refused(tmp_path: Path) -> None:
    assert_drawn(draw_curves(write_metrics(tmp_path / "m.jsonl", [{"epoch": 1, "loss": 2.0}]), tmp_path / "c.png"))
    with pytest.raises(ValueError, match="no finished epoch"):
        draw_curves(write_metrics(tmp_path / "m.jsonl", []), tmp_path / "c.png")
    with pytest.raises(FileNotFoundError, match="no metrics file"):
        draw_curves(tmp_path / "absent.jsonl", tmp_path / "c.png")


def pictures_and_embeddings(number: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((20 + i % 3, 24)) for i in range(number)], rng.normal(size=(number, 5))


def test_each_query_is_followed_by_its_nearest_with_their_similarity(tmp_path: Path, figures: list[Any]) -> None:
    pictures, embeddings = pictures_and_embeddings(12)
    sources = ["ct" if i % 2 else "mr" for i in range(12)]
    assert_drawn(draw_neighbours(pictures, embeddings, sources, tmp_path / "n.png", num_queries=3, num_neighbours=4))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    axes = figures[0].axes
    assert len(axes) == 3 * 5
    for row in range(3):
        shown = [next(i for i, p in enumerate(pictures) if np.array_equal(grey_levels(p), cell.images[0].get_array()))
                 for cell in axes[5 * row : 5 * row + 5]]  # fmt: skip
        query, *others = shown
        similarity = unit @ unit[query]
        expected = [i for i in np.argsort(-similarity) if i != query][:4]
        assert others == expected
        titles = [cell.get_title() for cell in axes[5 * row + 1 : 5 * row + 5]]
        assert titles == [f"{similarity[i]:.2f}\n{sources[i]}" for i in expected]
        colours = {i: cell.spines["left"].get_edgecolor() for i, cell in zip(others, axes[5 * row + 1 :], strict=False)}
        same = {colours[i] for i in others if sources[i] == sources[query]}
        other = {colours[i] for i in others if sources[i] != sources[query]}
        assert not same & other


def test_queries_come_from_all_sources() -> None:
    names = ["a"] * 50 + ["b"] * 2 + ["c"]
    chosen = picture_neighbours._spread_queries(names, 6)
    assert [names[i] for i in chosen] == ["a", "a", "a", "b", "b", "c"]
    assert len(set(chosen)) == 6


def test_two_samples_are_enough_for_neighbours_and_one_is_not(tmp_path: Path) -> None:
    pictures, embeddings = pictures_and_embeddings(2)
    assert_drawn(draw_neighbours(pictures, embeddings, ["x" * 60, "y"], tmp_path / "n.png"))
    with pytest.raises(ValueError, match="at least two samples"):
        draw_neighbours(pictures[:1], embeddings[:1], ["x"], tmp_path / "n.png")
    with pytest.raises(ValueError, match="one picture, one embedding row and one source"):
        draw_neighbours(pictures, embeddings[:1], ["x", "y"], tmp_path / "n.png")
    with pytest.raises(ValueError, match="pictures must be H W"):
        draw_neighbours([pictures[0], pictures[0][None]], embeddings, ["x", "y"], tmp_path / "n.png")


def test_the_map_by_principal_components_keeps_distances_of_flat_data(tmp_path: Path, figures: list[Any]) -> None:
    rng = np.random.default_rng(0)
    flat, turn = rng.normal(size=(30, 2)), np.linalg.qr(rng.normal(size=(6, 6)))[0][:2]
    names = np.array(["b", "a", "c"])[rng.integers(0, 3, 30)]
    assert_drawn(draw_embedding_map(flat @ turn + 3, names, tmp_path / "m.png"))
    axes = figures[0].axes[0]
    found = np.concatenate([part.get_offsets() for part in axes.collections])
    truth = np.concatenate([flat[names == name] for name in ("a", "b", "c")])
    assert np.allclose(
        np.linalg.norm(found[:, None] - found[None], axis=-1), np.linalg.norm(truth[:, None] - truth[None], axis=-1)
    )
    assert axes.get_title() == "Embeddings by principal components, n = 30"
    shares = [int(label.split("(")[1].split("%")[0]) for label in (axes.get_xlabel(), axes.get_ylabel())]
    assert sum(shares) in (99, 100, 101)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"{name} ({(names == name).sum()})" for name in ("a", "b", "c")]


def test_tsne_keeps_planted_clusters_apart(tmp_path: Path, figures: list[Any]) -> None:
    rng = np.random.default_rng(0)
    names = np.repeat(["a", "b"], 20)
    table = np.where(names[:, None] == "a", 1.0, -1.0) * np.arange(1, 9) + 0.1 * rng.normal(size=(40, 8))
    draw_embedding_map(table, names, tmp_path / "m.png", method="tsne")
    first, second = (part.get_offsets() for part in figures[0].axes[0].collections)
    gap = np.linalg.norm(first[:, None] - second[None], axis=-1).min()
    assert gap > np.linalg.norm(first - first.mean(0), axis=-1).max()
    assert "t-SNE" in figures[0].axes[0].get_title()


@pytest.mark.parametrize(
    ("number", "categories", "method"),
    [(1, 1, "tsne"), (1, 1, "pca"), (3, 1, "pca"), (4, 4, "tsne"), (6, 1, "tsne"), (30, 27, "tsne"), (90, 90, "pca")],
)
def test_few_samples_and_many_categories_are_drawn(tmp_path: Path, number: int, categories: int, method: Any) -> None:
    rng = np.random.default_rng(0)
    names = [f"category {i % categories}" for i in range(number)]
    assert_drawn(draw_embedding_map(rng.normal(size=(number, 4)), names, tmp_path / "m.png", method))
    assert_drawn(draw_embedding_map(np.ones((number, 4)), names, tmp_path / "m.png", method))


def test_categories_are_told_apart_by_colour_and_marker_and_sorted_as_people_count() -> None:
    styles = category_styles([str(i) for i in range(64)])
    assert len({(style["color"], style["marker"]) for style in styles.values()}) == 64
    assert sorted(["s10", "s2", "a"], key=picture_map._natural) == ["a", "s2", "s10"]
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened("abc", 5) == "abc"


def test_grey_levels_stretch_percentiles_and_survive_what_is_not_finite() -> None:
    picture = np.linspace(-50, 1000, 200).reshape(10, 20)
    levels = grey_levels(picture)
    assert (levels.min(), levels.max()) == (0, 1)
    assert np.all(np.diff(levels.ravel()) >= 0)
    assert np.array_equal(grey_levels(np.full((3, 3), np.nan)), np.zeros((3, 3)))
    assert grey_levels(np.array([[0.0, np.inf, np.nan, 1.0]])).tolist() == [[0, 1, 0, 1]]


def test_a_map_without_samples_or_of_an_unknown_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="embeddings N D and N categories"):
        draw_embedding_map(np.zeros((0, 4)), [], tmp_path / "m.png")
    with pytest.raises(ValueError, match="method must be"):
        draw_embedding_map(np.zeros((3, 4)), "abc", tmp_path / "m.png", method="umap")  # type: ignore[arg-type]


def test_attention_is_drawn_by_millimetres_with_each_slice_over_its_place(tmp_path: Path, figures: list[Any]) -> None:
    rng = np.random.default_rng(0)
    positions = np.array([10.0, -20.0, 0.0, 40.0])  # any order, unequal distances
    attention = rng.random((3, 4, 4))
    attention /= attention.sum(-1, keepdims=True)
    slices = rng.random((4, 12, 10))
    assert_drawn(draw_attention(attention, positions, slices, tmp_path / "a.png"))
    order = np.argsort(positions)
    heat = next(axes for axes in figures[0].axes if axes.get_ylabel().startswith("looking slice"))
    assert np.allclose(heat.collections[0].get_array(), attention.mean(0)[order][:, order])
    received = next(axes for axes in figures[0].axes if axes.get_ylabel() == "mean received")
    mean = next(line for line in received.lines if line.get_label() == "mean of the heads")
    assert list(mean.get_xdata()) == sorted(positions)
    assert np.allclose(mean.get_ydata(), attention.mean((0, 1))[order])
    assert "mm" in received.get_xlabel()
    strip = [axes for axes in figures[0].axes if axes.images and axes.get_title()]
    for axes in strip:
        chosen = int(np.flatnonzero(positions == float(axes.get_title().split()[0].replace("−", "-")))[0])
        assert np.array_equal(axes.images[0].get_array(), grey_levels(slices[chosen]))
    left, right = heat.get_xlim()
    for axes in strip:  # the thumbnail stands over its position, to within its own width
        place = (axes.get_position().x0 + axes.get_position().x1) / 2
        box = heat.get_position()
        shown = left + (place - box.x0) / box.width * (right - left)
        nearest = positions[np.abs(positions - shown).argmin()]
        assert nearest == float(axes.get_title().split()[0].replace("−", "-"))


def test_attention_of_one_slice_and_of_equal_positions_is_drawn(tmp_path: Path, figures: list[Any]) -> None:
    assert_drawn(draw_attention(np.ones((1, 1)), [5.0], np.eye(8)[None], tmp_path / "a.png"))
    assert_drawn(draw_attention(np.full((3, 3), 1 / 3), [0.0, 0.0, 0.0], np.stack([np.eye(8)] * 3), tmp_path / "b.png"))
    received = next(axes for axes in figures[1].axes if axes.get_ylabel() == "mean received")
    assert "mm" not in received.get_xlabel()


def test_attention_that_does_not_fit_its_slices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"attention \(heads\) S S, S positions and S slices"):
        draw_attention(np.ones((2, 3)), [0.0, 1.0], np.zeros((2, 4, 4)), tmp_path / "a.png")
