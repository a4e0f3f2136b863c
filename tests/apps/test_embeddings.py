# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Embeddings go to one file and come back; probes read them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_cluster.apps.embedding import thin
from monai_cluster.apps.embeddings import Embeddings, load_embeddings
from monai_cluster.apps.evaluation import probe_embeddings


def make_embeddings(labels: list[str], noise: float = 0.05, seed: int = 0) -> Embeddings:
    """Rows around one direction per label, so that probes must find the labels."""
    rng = np.random.default_rng(seed)
    directions = {"a": [1, 0, 0, 0], "b": [0, 1, 0, 0], "": [0, 0, 0, 1]}
    rows = np.array([directions[label] for label in labels], dtype=np.float32)
    rows = rows + noise * rng.standard_normal(rows.shape).astype(np.float32)
    index = np.arange(len(labels))
    return Embeddings(
        image_features=rows, image_embedding=rows, image_sample_index=index,
        volume_embedding=rows, volume_features=rows[::-1].copy(), volume_sample_index=index,
        slice_embedding=rows, slice_sample_index=index, slice_index=index, slice_position_mm=index.astype(np.float32),
        columns={"image": {"label": np.array(labels)}, "volume": {"label": np.array(labels)}},
    )  # fmt: skip


def test_saving_and_loading_is_the_identity(tmp_path) -> None:
    before = make_embeddings(["a", "b", ""])
    after = load_embeddings(before.save(tmp_path / "new folder" / "e.npz"))
    for item in fields(Embeddings):
        if item.name != "columns":
            np.testing.assert_array_equal(getattr(after, item.name), getattr(before, item.name))
    np.testing.assert_array_equal(after.column("volume", "label"), ["a", "b", ""])
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["e.npz"]


def test_missing_columns_files_and_foreign_files_are_named(tmp_path) -> None:
    with pytest.raises(KeyError, match="the image rows have no column 'site'; they have: label"):
        make_embeddings(["a"]).column("image", "site")
    with pytest.raises(FileNotFoundError, match="no embeddings file"):
        load_embeddings(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="is no embeddings file of this version"):
        load_embeddings(tmp_path / "other.npz")


def test_probes_find_planted_classes_and_leave_unlabelled_rows_out() -> None:
    train = make_embeddings(["a", "b"] * 10 + [""] * 3)
    test = make_embeddings(["a", "b", "b", ""], seed=1)
    found = probe_embeddings(train, test, "label", "image", num_neighbours=5)
    assert set(found) == {"features", "embedding"}
    values = found["embedding"]
    assert values["knn_accuracy"] == values["linear_accuracy"] == values["linear_auc"] == 1.0
    assert (values["num_train"], values["num_test"], values["num_unlabelled"]) == (20, 3, 4)
    assert values["chance_accuracy"] == pytest.approx(2 / 3)


def test_probes_without_any_label_are_refused() -> None:
    with pytest.raises(ValueError, match="no image of the test rows has a value in column 'label'"):
        probe_embeddings(make_embeddings(["a", "b"]), make_embeddings([""]), "label", "image")


def test_thinning_takes_the_middles_of_equal_strata_every_time() -> None:
    volume = MetaTensor(torch.arange(10.0).expand(1, 2, 3, 10), affine=torch.diag(torch.tensor([1.0, 1.0, 2.5, 1.0])))
    for _ in range(2):
        slices, index, position = thin({"image": volume}, 3)
        assert index.tolist() == [1, 5, 8]
        assert slices[:, 0, 0, 0].tolist() == [1.0, 5.0, 8.0]
        assert (position - position[0]).tolist() == [0.0, 10.0, 17.5]
    assert thin({"image": volume}, 20)[1].tolist() == list(range(10))
