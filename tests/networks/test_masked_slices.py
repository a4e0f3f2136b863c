# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which slices are hidden, and which slices of two views match."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_cluster.networks import MaskedSliceDecoder
from monai_cluster.networks.masked_slices import draw_hidden_slices
from monai_cluster.networks.matched_slices import match_slices


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    ratio=st.floats(0.01, 0.99),
    mode=st.sampled_from(["random", "block"]),
    seed=st.integers(0, 999),
)
def test_hidden_slices_are_real_and_some_stay_visible(counts: list[int], ratio: float, mode: str, seed: int) -> None:
    padded = torch.arange(14) >= torch.tensor(counts)[:, None]
    hidden = draw_hidden_slices(padded, ratio, mode, torch.Generator().manual_seed(seed))
    assert not (hidden & padded).any()
    for count, row in zip(counts, hidden, strict=True):
        number = int(row.sum())
        assert number == (0 if count == 1 else min(max(round(ratio * count), 1), count - 1))
        if mode == "block" and number:
            assert row.nonzero()[-1] - row.nonzero()[0] + 1 == number


@pytest.mark.parametrize("mode", ["random", "block"])
def test_every_slice_has_its_turn(mode: str) -> None:
    padded = torch.arange(8).expand(2000, -1) >= 6
    share = draw_hidden_slices(padded, 1 / 3, mode, torch.Generator().manual_seed(0)).float().mean(0)
    expected = torch.full((6,), 1 / 3) if mode == "random" else torch.tensor([1, 2, 2, 2, 2, 1]) / 5
    torch.testing.assert_close(share[:6], expected, atol=0.04, rtol=0)


def test_hidden_slices_carry_the_token_and_nothing_of_themselves() -> None:
    decoder = MaskedSliceDecoder(4)
    slices = torch.randn(2, 5, 4, requires_grad=True)
    masked = decoder.draw(torch.zeros(2, 5, dtype=torch.bool))
    hidden = decoder.hide(slices, masked)
    assert torch.equal(hidden[masked], decoder.hidden_token.expand(int(masked.sum()), -1))
    assert torch.equal(hidden[~masked], slices[~masked])
    hidden.sum().backward()
    assert slices.grad is not None
    assert torch.equal(slices.grad, (~masked).float()[..., None].expand(-1, -1, 4))


def test_the_share_varies_between_its_bounds() -> None:
    decoder = MaskedSliceDecoder(4, ratio=0.2, max_ratio=0.6)
    numbers = decoder.draw(torch.zeros(500, 20, dtype=torch.bool), torch.Generator().manual_seed(0)).sum(1)
    assert (numbers.min(), numbers.max()) == (4, 12)
    assert 7 < numbers.float().mean() < 9
    assert 0.01 < MaskedSliceDecoder(1000).hidden_token.std() < 0.03


def test_impossible_shares_and_modes_are_refused() -> None:
    for ratio, largest in ((0.0, None), (1.0, None), (0.5, 0.4), (0.5, 1.0)):
        with pytest.raises(ValueError, match="0 < ratio <= max_ratio < 1"):
            MaskedSliceDecoder(4, ratio, max_ratio=largest)
    with pytest.raises(ValueError, match="mode must be 'random' or 'block', got 'blocks'"):
        MaskedSliceDecoder(4, mode="blocks")
    with pytest.raises(ValueError, match="mode must be 'random' or 'block', got 'blocks'"):
        draw_hidden_slices(torch.zeros(1, 3, dtype=torch.bool), 0.5, "blocks")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), number=st.integers(1, 8))
def test_matched_slices_show_the_same_source_slice(seed: int, number: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    views = []
    for _ in range(2):
        rows = [torch.randperm(10, generator=generator)[:7] for _ in range(3)]
        views.append(torch.stack(rows).masked_fill(torch.rand(3, 7, generator=generator) < 0.2, -1))
    common = [len(set(a.tolist()) & set(b.tolist()) - {-1}) for a, b in zip(*views, strict=True)]
    found = match_slices(*views, number)
    if found is None:
        assert min(common) == 0
        return
    first, second = (view.gather(1, place) for view, place in zip(views, found, strict=True))
    assert torch.equal(first, second)
    assert first.min() >= 0
    assert first.shape[1] == min(number, *common)
    assert all(len(set(row.tolist())) == first.shape[1] for row in first)


def test_matched_slices_are_spread_and_follow_a_flip() -> None:
    index = torch.arange(12)[None]
    found = match_slices(index, index.flip(1), 3)
    assert found is not None
    assert found[0].tolist() == [[2, 6, 10]]
    assert found[1].tolist() == [[9, 5, 1]]
