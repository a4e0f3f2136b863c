# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One generator for a tree of transforms: only the seed decides, and nobody inside is forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, OneOf, RandAffine, Randomizable, RandScaleIntensity, SomeOf, Transform

from monai_cluster.transforms import SharedRandomState, image_views, volume_views


def views_of(transform: Any, sample: dict[str, Any]) -> list[torch.Tensor]:
    views: list[torch.Tensor] = transform(dict(sample))["views"]
    return views


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        (image_views(size=24, local_size=16, num_local=2), (1, 32, 32)),
        (volume_views(num_slices=6, size=16, num_local=1, crop_scale=(0.3, 1.0)), (1, 20, 20, 9)),
        (volume_views(num_slices=6, match_slices=False, sampling="random"), (1, 20, 20, 9)),
    ],
)
def test_views_follow_from_the_seed_alone(transform: Any, shape: tuple[int, ...]) -> None:
    random_state = SharedRandomState(transform)
    sample = {"image": torch.rand(shape, generator=torch.Generator().manual_seed(0))}
    drawn: list[list[torch.Tensor]] = []
    for seed in [*range(12), *reversed(range(12))]:  # every augmentation comes up, after different predecessors
        random_state.seed(seed)
        drawn.append(views_of(transform, sample))
    for first, again in zip(drawn[:12], reversed(drawn[12:]), strict=True):
        assert [torch.equal(a, b) for a, b in zip(first, again, strict=True)] == [True] * len(first)
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_transforms_in_lists_dictionaries_and_attributes_all_draw_from_the_one_generator() -> None:
    affine, scale, hidden = RandAffine(prob=1.0), RandScaleIntensity(0.5), RandScaleIntensity(0.1)

    class Holder(Transform):
        def __init__(self) -> None:
            self.inside = {"one": (hidden,)}

        def __call__(self, data: Any) -> Any:
            return data

    tree = Compose([OneOf([affine]), SomeOf([scale]), Holder()])
    random_state = SharedRandomState(tree)
    random_state.seed(3)
    inside = [tree, *tree.transforms[:2], affine, affine.rand_affine_grid, scale, hidden]
    assert [one.R is random_state.state for one in inside] == [True] * len(inside)
    expected = np.random.RandomState(3).uniform(size=2)
    np.testing.assert_array_equal([affine.R.uniform(), hidden.R.uniform()], expected)


def test_a_foreign_transform_with_a_generator_of_its_own_is_seeded_through_its_own_method() -> None:
    class Foreign(Randomizable, Transform):
        def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Foreign:
            super().set_random_state(seed, state)
            self.generator = torch.Generator().manual_seed(int(self.R.randint(2**31)))
            return self

        def randomize(self, data: Any = None) -> None:
            raise NotImplementedError

        def __call__(self, data: Any) -> torch.Tensor:
            return torch.rand(3, generator=self.generator)

    foreign = Foreign()
    random_state = SharedRandomState(Compose([foreign]))
    draws = []
    for seed in (5, 6, 5):
        random_state.seed(seed)
        draws.append(foreign(None))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_functions_and_none_hold_nothing_to_seed() -> None:
    for transform in (None, len, lambda data: data):
        random_state = SharedRandomState(transform)
        random_state.seed(0)
        assert random_state.sharing == random_state.others == []
