# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The batch sampler and the joint loader."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_cluster.data import JointBatchSampler, JointDataset, JointLoader, collate_joint
from monai_cluster.data.batch_sampler import grouped_batches

from .test_datasets import joint


@settings(max_examples=150, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=25), batch=st.integers(1, 25), seed=st.integers(0, 1_000))
def test_every_item_is_dealt_and_no_batch_has_a_group_twice(sizes: list[int], batch: int, seed: int) -> None:
    batch = min(batch, len(sizes))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    batches = grouped_batches(groups.tolist(), batch, seed)
    assert set(batches.ravel().tolist()) == set(range(len(groups)))
    assert batches.shape == (max(-(-len(groups) // batch), max(sizes)), batch)
    for one in batches:
        assert len(set(groups[one].tolist())) == batch


def test_a_full_deal_takes_each_item_exactly_once_and_mixes_companions() -> None:
    groups = [v for v in range(12) for _ in range(4)] + list(range(100, 116))
    companions: Counter[tuple[int, int]] = Counter()
    for seed in range(300):
        batches = grouped_batches(groups, 8, seed)
        assert sorted(batches.ravel().tolist()) == list(range(64))
        companions.update((0, int(i)) for one in batches if 0 in one for i in one if i != 0)
    # item 0 meets every item of other groups about equally often
    counts = np.array([companions[0, i] for i in range(4, 64)])
    assert counts.min() > 0.4 * counts.mean()
    assert counts.max() < 1.8 * counts.mean()


def items(sampler: JointBatchSampler, stream: str) -> list[list[int]]:
    return [[index for name, _, index in batch if name == stream] for batch in sampler]


@pytest.mark.parametrize(
    ("wanted", "batches"), [("longest", 10), ("shortest", 4), ("images", 10), ("volumes", 4), (6, 6)]
)
def test_an_epoch_is_as_long_as_asked_and_has_both_streams_in_their_sizes(wanted: Any, batches: int) -> None:
    sampler = JointBatchSampler(40, 8, None, 4, 2, seed=1, epoch_length=wanted)
    assert len(sampler) == batches
    epoch = list(sampler)
    assert len(epoch) == batches
    for batch in epoch:
        assert Counter(stream for stream, _, _ in batch) == {"images": 4, "volumes": 2}


def test_the_driving_stream_is_seen_once_and_the_shorter_in_fresh_full_passes() -> None:
    sampler = JointBatchSampler(40, 8, None, 4, 2, seed=1)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(functools.reduce(operator.iadd, items(sampler, "images"), [])) == list(range(40))
    volumes = [batch for epoch in range(4) for batch in (sampler.set_epoch(epoch), items(sampler, "volumes"))[1]]
    passes = [functools.reduce(operator.iadd, volumes[start : start + 4], []) for start in range(0, 40, 4)]
    assert all(sorted(one) == list(range(8)) for one in passes)
    assert len({tuple(one) for one in passes}) == 10


def test_a_longer_stream_goes_on_where_the_last_epoch_stopped() -> None:
    sampler = JointBatchSampler(40, 8, None, 4, 2, seed=1, epoch_length=5)
    halves = [
        functools.reduce(operator.iadd, (sampler.set_epoch(epoch), items(sampler, "images"))[1], [])
        for epoch in range(2)
    ]
    assert sorted(halves[0] + halves[1]) == list(range(40))


def test_epochs_and_seeds_differ_and_repeat_exactly() -> None:
    def epoch(seed: int, number: int) -> list[Any]:
        sampler = JointBatchSampler(40, 8, None, 4, 2, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(0, 3) == epoch(0, 3)
    assert epoch(0, 3) != epoch(0, 4)
    assert [i for b in epoch(0, 3) for _, _, i in b] != [i for b in epoch(1, 3) for _, _, i in b]
    assert all(number == 3 for batch in epoch(0, 3) for _, number, _ in batch)


def test_streams_can_be_left_out_and_the_length_stays() -> None:
    sampler = JointBatchSampler(40, 8, None, 4, 2, seed=1)
    both = items(sampler, "volumes")
    sampler.set_streams(("volumes",))
    assert len(sampler) == 10
    assert items(sampler, "volumes") == both
    assert functools.reduce(operator.iadd, items(sampler, "images"), []) == []


def shares(rank: int, seed: int) -> list[Any]:
    sampler = JointBatchSampler(24, 8, [i // 3 for i in range(24)], 4, 2, seed=seed)
    sampler.set_epoch(2)
    return list(sampler)


def test_two_ranks_together_have_the_batches_of_one_process(gloo_pair: Any) -> None:
    first, second = gloo_pair(shares, 3)
    for whole, left, right in zip(shares(0, 3), first, second, strict=True):
        for stream in ("images", "volumes"):
            parts = [[item for item in half if item[0] == stream] for half in (left, right)]
            assert parts[0] + parts[1] == [item for item in whole if item[0] == stream]
            assert len(parts[0]) == len(parts[1])


def odd(rank: int) -> str:
    try:
        list(JointBatchSampler(9, 0, None, 3))
    except ValueError as error:
        return str(error)
    return "accepted"


def test_a_batch_that_the_ranks_cannot_share_is_refused(gloo_pair: Any) -> None:
    for message in gloo_pair(odd):
        assert "must be a multiple of their number 2; take 2 or 4" in message


def test_wrong_arguments_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="images needs at least 4 independent samples for a batch of 4, got 3"):
        JointBatchSampler(9, 0, [i // 3 for i in range(9)], 4)
    with pytest.raises(ValueError, match="volumes needs at least 5"):
        JointBatchSampler(9, 4, None, 4, 5)
    with pytest.raises(ValueError, match="needs at least 3"):
        grouped_batches([0, 0, 1], 3, 0)
    with pytest.raises(ValueError, match="one entry per image, got 2 for 3"):
        JointBatchSampler(3, 0, [0, 1])
    with pytest.raises(ValueError, match="must not be negative"):
        JointBatchSampler(3, 0, None, -1)
    with pytest.raises(ValueError, match="at least one stream"):
        JointBatchSampler(0, 3, None, 1, 0)
    for wanted in ("all", 0, "volumes"):
        with pytest.raises(ValueError, match="epoch_length must be a positive number"):
            JointBatchSampler(3, 0, None, 1, epoch_length=wanted)
    sampler = JointBatchSampler(3, 0)
    with pytest.raises(ValueError, match="streams must be of images, got 'volumes'"):
        sampler.set_streams(("volumes",))
    with pytest.raises(ValueError, match="at least one stream is needed"):
        sampler.set_streams(())


def loader(workers: int = 0, **options: Any) -> JointLoader:
    data = joint(slices=(10, 3), slices_per_volume=2, seed=1)
    return JointLoader(data, 4, 2, seed=5, num_workers=workers, **options)


def flatten(batches: Any) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []
    for batch in batches:
        for stream in ("images", "volumes"):
            for _, value in sorted(batch[stream].items()):
                tensors += value if isinstance(value, list) else [value]
    return tensors


def test_any_number_of_workers_gives_identical_batches_and_epochs_differ() -> None:
    epochs: dict[tuple[int, int], list[torch.Tensor]] = {}
    for workers in (0, 1, 2):
        source = loader(workers, persistent_workers=workers == 2)
        for epoch in (0, 1):
            source.set_epoch(epoch)
            epochs[workers, epoch] = flatten(source)
    for workers in (1, 2):
        for epoch in (0, 1):
            for one, other in zip(epochs[0, epoch], epochs[workers, epoch], strict=True):
                assert torch.equal(one, other)
    again = loader()
    assert all(torch.equal(a, b) for a, b in zip(flatten(again), epochs[0, 0], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(epochs[0, 0], epochs[0, 1], strict=True))


def test_the_loader_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(2), np.random.rand(2)  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    flatten(loader())
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.rand(2), expected[1])  # noqa: NPY002


def test_a_batch_has_the_layout_of_the_contract_with_plain_tensors() -> None:
    batch = next(iter(loader()))
    images, volumes = batch["images"], batch["volumes"]
    assert set(images) == {"views", "sample_index"}
    assert set(volumes) == {"views", "sample_index", "padded", "slice_index", "slice_position"}
    assert [tuple(view.shape) for view in images["views"]] == [(4, 1, 8, 8)] * 2 + [(4, 1, 4, 4)]
    for view in range(2):
        count = volumes["views"][view].shape[-1]
        for name, dtype in (("padded", torch.bool), ("slice_index", torch.int64), ("slice_position", torch.float32)):
            assert volumes[name][view].shape == (2, count)
            assert volumes[name][view].dtype == dtype
    assert all(type(tensor) is torch.Tensor for tensor in flatten([batch]))
    assert images["sample_index"].dtype == volumes["sample_index"].dtype == torch.int64


def test_short_volumes_are_padded_at_the_end_and_marked() -> None:
    data: JointDataset = joint(slices=(10, 3), slices_per_volume=0)
    samples = [data["volumes", 0, index] for index in (0, 1)]
    volumes = collate_joint(samples)["volumes"]
    for view in range(2):
        assert volumes["padded"][view].tolist() == [[False] * 4, [False] * 3 + [True]]
        assert volumes["slice_index"][view][1, 3] == -1
        assert volumes["slice_position"][view][1, 3] == 0
        assert volumes["views"][view][1, ..., 3].abs().sum() == 0
        assert torch.equal(volumes["views"][view][1, ..., :3], samples[1]["views"][view])
        assert torch.equal(volumes["slice_index"][view][0], samples[0]["slice_index"][view])


def test_a_stream_left_out_is_absent_from_the_batch() -> None:
    source = loader()
    source.set_streams(("images",))
    assert all(set(batch) == {"images"} for batch in source)
    assert len(source) == len(loader())


def test_samples_that_do_not_fit_together_are_refused_with_the_fix() -> None:
    def sample(*shapes: tuple[int, ...], stream: str = "images") -> dict[str, Any]:
        return {"views": [torch.zeros(shape) for shape in shapes], "sample_index": 0, "stream": stream}

    with pytest.raises(ValueError, match="as many views"):
        collate_joint([sample((1, 4, 4)), sample((1, 4, 4), (1, 4, 4))])
    with pytest.raises(ValueError, match=r"one shape.*channel=0"):
        collate_joint([sample((1, 4, 4)), sample((2, 4, 4))])
    with pytest.raises(ValueError, match="need 'slice_index' for each view"):
        collate_joint([sample((1, 4, 4, 3), stream="volumes")])
