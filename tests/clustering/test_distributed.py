# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Collective operations on two ranks, and their absence on one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_cluster.clustering.distributed import all_gather_rows, all_max_, all_sum_, share_of_rows, world


def everything(rank: int) -> dict[str, object]:
    rows = torch.arange(6).reshape(3, 2)[: 1 + 2 * rank] + 10 * rank
    return {
        "world": world(),
        "alone": world(False),
        "sum": all_sum_(torch.tensor([1.0, rank])),
        "max": all_max_(torch.tensor([-1.0, rank])),
        "rows": all_gather_rows(rows),
        "flags": all_gather_rows(torch.ones(rank, dtype=torch.bool)),
        "half": all_gather_rows(torch.full((1, 2), 0.5 + rank, dtype=torch.float16)),
        "local": all_gather_rows(rows, False),
        "share": share_of_rows(torch.arange(5)),
    }


def test_two_ranks_sum_and_join_uneven_rows_in_rank_order(gloo_pair) -> None:
    for rank, found in enumerate(gloo_pair(everything)):
        assert found["world"] == (rank, 2)
        assert found["alone"] == (0, 1)
        assert found["sum"].tolist() == [2, 1]
        assert found["max"].tolist() == [-1, 1]
        assert found["rows"].tolist() == [[0, 1], [10, 11], [12, 13], [14, 15]]
        assert found["flags"].tolist() == [True]
        assert found["half"].tolist() == [[0.5, 0.5], [1.5, 1.5]]
        assert len(found["local"]) == 1 + 2 * rank
        assert found["share"].tolist() == [[0, 2, 4], [1, 3]][rank]


def test_alone_every_operation_is_the_identity() -> None:
    rows: Tensor = torch.arange(4.0, requires_grad=True)
    assert world() == (0, 1)
    assert all_gather_rows(rows).tolist() == [0, 1, 2, 3]
    assert not all_gather_rows(rows).requires_grad
    assert all_sum_(torch.tensor(3)) == all_max_(torch.tensor(3)) == 3
    assert share_of_rows(torch.arange(3)).tolist() == [0, 1, 2]


def test_insisting_on_ranks_without_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match="distributed=True needs an initialised process group"):
        world(True)
