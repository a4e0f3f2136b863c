# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Queue and bank against a deque and a dictionary."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monai_cluster.clustering.memory import EmbeddingQueue, MemoryBank


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(0, 20), max_size=8))
def test_queue_holds_what_a_deque_holds(capacity: int, batches: list[int]) -> None:
    queue, oracle, number = EmbeddingQueue(capacity, 2), deque(maxlen=capacity), 0
    for size in batches:
        rows = torch.arange(number, number + 2 * size, dtype=torch.float32).reshape(size, 2)
        number += 2 * size
        queue.push(rows)
        oracle.extend(rows.tolist())
        assert queue.contents().tolist() == list(oracle)
        assert len(queue) == len(oracle)
        assert queue.is_full == (len(oracle) == capacity)


def test_queue_continues_from_its_state() -> None:
    first = EmbeddingQueue(4, 1)
    first.push(torch.arange(6.0)[:, None])
    second = EmbeddingQueue(4, 1)
    second.load_state_dict(first.state_dict())
    for queue in (first, second):
        queue.push(torch.tensor([[6.0]]))
    assert second.contents().flatten().tolist() == first.contents().flatten().tolist() == [3, 4, 5, 6]
    assert repr(second) == "EmbeddingQueue(capacity=4, dim=1)"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 5), st.data())
def test_bank_holds_what_a_dictionary_holds(number: int, first: int, data: st.DataObject) -> None:
    bank, oracle = MemoryBank(number, 2, first), {}
    indices = st.lists(st.integers(first, first + number - 1), unique=True)
    for step, index in enumerate(data.draw(st.lists(indices, max_size=6))):
        rows = torch.tensor([[float(step), float(value)] for value in index]).reshape(len(index), 2)
        bank.update(rows, torch.tensor(index, dtype=torch.int64))
        oracle.update(zip(index, rows.tolist(), strict=True))
    assert (bank.seen.nonzero().flatten() + first).tolist() == sorted(oracle)
    for index, row in oracle.items():
        assert bank.embeddings[bank.rows_of(torch.tensor([index]))].tolist() == [row]
    assert bank.embeddings[~bank.seen].eq(0).all()


def test_bank_continues_from_its_state() -> None:
    first = MemoryBank(3, 1)
    first.update(torch.tensor([[5.0]], dtype=torch.float16), torch.tensor([2], dtype=torch.int32))
    second = MemoryBank(3, 1)
    second.load_state_dict(first.state_dict())
    assert second.embeddings.flatten().tolist() == [0, 0, 5]
    assert second.seen.tolist() == [False, False, True]
    assert repr(second) == "MemoryBank(num_samples=3, dim=1, first_index=0)"


def test_stored_embeddings_have_no_graph() -> None:
    queue, bank = EmbeddingQueue(2, 2), MemoryBank(2, 2)
    rows = torch.ones(2, 2, requires_grad=True) * 2
    queue.push(rows)
    bank.update(rows, torch.arange(2))
    assert not queue.rows.requires_grad
    assert not bank.embeddings.requires_grad


def test_wrong_sizes_and_indices_are_refused_by_rule() -> None:
    bank = MemoryBank(4, 2, first_index=10)
    with pytest.raises(ValueError, match=r"must lie in 10 \.\.\. 13, got \[9, 14\]"):
        bank.update(torch.zeros(3, 2), torch.tensor([9, 10, 14]))
    with pytest.raises(ValueError, match=r"once in an update, got \[11\] more than once"):
        bank.update(torch.zeros(3, 2), torch.tensor([11, 10, 11]))
    with pytest.raises(ValueError, match=r"one index for each of the 3 embeddings, got shape \(2,\)"):
        bank.update(torch.zeros(3, 2), torch.tensor([10, 11]))
    with pytest.raises(ValueError, match=r"embeddings must be n 2, got shape \(3, 5\)"):
        bank.update(torch.zeros(3, 5), torch.tensor([10, 11, 12]))
    with pytest.raises(ValueError, match="num_samples and dim must be at least 1"):
        MemoryBank(0, 2)
    with pytest.raises(ValueError, match=r"embeddings must be n 2, got shape \(3,\)"):
        EmbeddingQueue(4, 2).push(torch.zeros(3))
    with pytest.raises(ValueError, match="capacity and dim must be at least 1, got 0 and 2"):
        EmbeddingQueue(0, 2)
    assert not bank.seen.any()


def push_and_update(rank: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    queue, bank = EmbeddingQueue(5, 2), MemoryBank(9, 2)
    for step in range(3):
        index = torch.arange(9)[3 * step : 3 * step + 3]
        part = slice(0, 1) if rank == 0 else slice(1, 3)
        queue.push(rows[index[part]])
        bank.update(rows[index[part]], index[part])
    return queue.contents(), bank.embeddings, bank.seen


def test_two_ranks_hold_what_one_process_holds(gloo_pair) -> None:
    rows = torch.rand(9, 2, generator=torch.Generator().manual_seed(0))
    for contents, embeddings, seen in gloo_pair(push_and_update, rows):
        assert torch.equal(contents, rows[4:])
        assert torch.equal(embeddings, rows)
        assert seen.all()


def same_sample_on_both(rank: int) -> str:
    try:
        MemoryBank(3, 1).update(torch.zeros(1, 1), torch.tensor([2]))
    except ValueError as error:
        return str(error)
    return "no error"


def test_a_sample_on_two_ranks_stops_both(gloo_pair) -> None:
    assert all("got [2] more than once" in message for message in gloo_pair(same_sample_on_both))
