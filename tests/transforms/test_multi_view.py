# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Views: independent, distinct, repeatable, matched slice by slice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandGaussianNoise, RandGaussianNoised, Randomizable

from monai_cluster.transforms import MultiView, MultiViewd, image_views, volume_views

AFFINE = torch.diag(torch.tensor([1.0, 1.0, 2.5, 1.0], dtype=torch.float64))


def volume(slices: int = 12) -> MetaTensor:
    data = torch.rand(1, 16, 16, slices, generator=torch.Generator().manual_seed(0))
    return MetaTensor(data, affine=AFFINE)


def staircase(slices: int = 12) -> MetaTensor:
    """Slice k is constant k / 100: each voxel tells its slice."""
    return MetaTensor((torch.arange(slices) / 100.0).expand(1, 16, 16, slices).clone(), affine=AFFINE)


class Add(Randomizable):
    """Adds a constant and remembers nothing."""

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def __call__(self, data: torch.Tensor) -> torch.Tensor:
        return data + self.amount


def test_distinct_views_never_share_a_transform_and_every_pair_occurs() -> None:
    views = MultiView([Add(i) for i in range(4)], distinct=True)
    pairs = set()
    for seed in range(200):
        first, second = views.set_random_state(seed)(torch.zeros(1))
        assert first != second
        assert views.choices == [int(first), int(second)]
        pairs.add((int(first), int(second)))
    assert len(pairs) == 12


def test_views_that_need_not_be_distinct_sometimes_share_a_transform() -> None:
    views = MultiView([Add(0), Add(1)], distinct=False)
    draws = [tuple(float(v) for v in views.set_random_state(seed)(torch.zeros(1))) for seed in range(40)]
    assert set(draws) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_each_view_draws_its_own_noise() -> None:
    views = MultiView(RandGaussianNoise(prob=1.0), RandGaussianNoise(prob=1.0), 2, 3).set_random_state(0)(
        torch.zeros(1, 9)
    )
    for i in range(5):
        for j in range(i):
            assert not torch.allclose(views[i], views[j])


def test_an_identity_transform_gives_the_image_itself_as_plain_tensors_global_first() -> None:
    image = MetaTensor(torch.rand(1, 4, 4), affine=AFFINE)
    views = MultiViewd("image", lambda d: d, lambda d: {"image": -d["image"]}, 2, 1)({"image": image, "subject": "s"})
    assert "image" not in views
    assert views["subject"] == "s"
    assert [type(view) for view in views["views"]] == [torch.Tensor] * 3
    assert torch.equal(views["views"][1], image.as_tensor())
    assert torch.equal(views["views"][2], -image.as_tensor())


PIPELINES = {
    "image": (lambda: image_views(16, 8, 2, 2), lambda: MetaTensor(volume().as_tensor()[..., 0])),
    "matched": (lambda: volume_views(6), volume),
    "own slices": (lambda: volume_views(6, match_slices=False, sampling="random"), volume),
    "crops": (lambda: volume_views(6, size=16, crop_scale=(0.3, 1.0), num_local=2), volume),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_one_seed_gives_one_result_whatever_was_drawn_before(name: str) -> None:
    build, source = PIPELINES[name]
    pipeline, other = build(), build()
    results = []
    for transform, before in ((pipeline, 0), (pipeline, 3), (other, 1)):
        for _ in range(before):
            transform({"image": source()})
        transform.set_random_state(seed=17)
        results.append(transform({"image": source()}))
    different = pipeline.set_random_state(seed=18)({"image": source()})
    for again in results[1:]:
        for first, second in zip(results[0]["views"], again["views"], strict=True):
            assert torch.equal(first, second)
    assert any(not torch.equal(a, b) for a, b in zip(results[0]["views"], different["views"], strict=True))


def test_nested_random_transforms_get_seeds_of_their_own() -> None:
    noise = [RandGaussianNoised("image", prob=1.0) for _ in range(2)]
    views = MultiViewd("image", [Compose([noise[0]]), Compose([noise[1]])], distinct=True).set_random_state(3)
    first, second = views({"image": torch.zeros(1, 50)})["views"]
    assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.5


@pytest.mark.parametrize("sampling", ["random", "even", "window"])
def test_matched_views_show_the_same_slices_and_every_slice_shows_its_index(sampling: Any) -> None:
    flips = volume_views(6, sampling=sampling, augmentations=("flip",), distinct=False)
    reversed_order = 0
    for seed in range(30):
        sample = flips.set_random_state(seed=seed)({"image": staircase()})
        first, second = sample["slice_index"]
        assert set(first.tolist()) == set(second.tolist())
        reversed_order += first.tolist() != second.tolist()
        for view, index, position in zip(sample["views"], sample["slice_index"], sample["slice_position"], strict=True):
            assert torch.allclose(view, (index / 100.0).expand_as(view))
            torch.testing.assert_close(position, index * 2.5)
    assert reversed_order > 0


def test_unmatched_views_draw_their_own_slices() -> None:
    own = volume_views(4, match_slices=False, sampling="window", augmentations=("gamma", "noise"))
    starts = [
        [int(index[0]) for index in own.set_random_state(seed=s)({"image": volume()})["slice_index"]] for s in range(30)
    ]
    assert any(first != second for first, second in starts)


def test_local_views_are_windows_of_the_matched_slices() -> None:
    views = volume_views(6, size=16, crop_scale=(0.5, 1.0), num_local=2, local_slices=3, sampling="random")
    sample = views.set_random_state(seed=2)({"image": volume()})
    assert [tuple(view.shape) for view in sample["views"]] == [(1, 16, 16, 6)] * 2 + [(1, 8, 8, 3)] * 2
    everything = set(sample["slice_index"][0].tolist())
    for index in sample["slice_index"][2:]:
        assert set(index.tolist()) <= everything


def test_wrong_arguments_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="num_global must be at least 1"):
        MultiView(Add(0), num_global=0)
    with pytest.raises(ValueError, match="need a local_transform"):
        MultiView(Add(0), num_local=1)
    with pytest.raises(ValueError, match="distinct views need at least"):
        MultiView(Add(0), distinct=True)
    with pytest.raises(ValueError, match="name one key"):
        MultiViewd(("image", "label"), Add(0))
    with pytest.raises(KeyError, match="load the image"):
        MultiViewd("image", Add(0))({"label": torch.zeros(1)})
    with pytest.raises(ValueError, match="crops need a size"):
        volume_views(4, crop_scale=(0.5, 1.0))
