# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The rule that chooses between memory, store and neither, and says why."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_cluster.data import cache_choice, choose_cache
from monai_cluster.data.cache_choice import available_memory

MIB = 2**20


def slow(row: Mapping[str, Any]) -> dict[str, Any]:
    """1 MiB of image and a quarter MiB of label, in 0.1 s."""
    time.sleep(0.1)
    return {**row, "image": torch.zeros(1, 64, 64, 64), "label": torch.zeros(1, 64, 64, 64, dtype=torch.uint8)}


def quick(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "image": torch.zeros(1, 128, 64, 64)}


def rows(count: int) -> list[dict[str, Any]]:
    return [{"sample_index": index} for index in range(count)]


@pytest.mark.parametrize(
    ("count", "transform", "limit", "folder", "choice", "reason"),
    [
        (8, slow, 10 * MIB, None, "memory", r"8 samples take about 10 MiB preprocessed, which fits into the 10 MiB"),
        (
            8,
            slow,
            10 * MIB - 1,
            "new/folder",
            "store",
            r"more than the 10 MiB of memory allowed but within the .* free",
        ),
        (8, slow, 9 * MIB, None, "none", "there is no folder for a store"),
        (400, quick, 9 * MIB, "new", "none", "would hardly be faster than preprocessing"),
        (0, slow, 1, None, "memory", "0 samples take about 0 bytes"),
    ],
)
def test_the_choice_and_its_reason(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    count: int,
    transform: Any,
    limit: int,
    folder: str | None,
    choice: str,
    reason: str,
) -> None:
    with caplog.at_level(logging.INFO, logger="monai_cluster.data.cache_choice"):
        assert choose_cache(rows(count), transform, folder and tmp_path / folder, limit) == choice
    (message,) = caplog.messages
    assert message.startswith(f"Cache {choice}: ")
    assert re.search(reason, message), message
    assert not (tmp_path / "new").exists()


def test_a_disk_without_room_rules_the_store_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_choice, "_free_disk", lambda folder: 12 * MIB)
    with caplog.at_level(logging.INFO):
        assert choose_cache(rows(8), slow, tmp_path, MIB) == "none"
    assert "more than the store's disk has to spare, 12 MiB free" in caplog.text


def test_the_default_limit_is_a_quarter_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_choice, "available_memory", lambda: 40 * MIB)
    assert choose_cache(rows(8), slow) == "memory"
    assert choose_cache(rows(9), slow) == "none"


def test_few_samples_are_probed_and_spread_over_the_rows() -> None:
    seen: list[int] = []

    def note(row: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(row["sample_index"])
        return {"image": torch.zeros(3)}

    choose_cache(rows(1001), note, memory_limit=10)
    assert seen == [0, 500, 1000]


def test_free_memory_lies_within_the_machine_and_its_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = available_memory()
    assert 2**26 < free < 2**45
    (tmp_path / "max").write_text("1000\n")
    monkeypatch.setattr(cache_choice, "GROUPS", (str(tmp_path / "none"), str(tmp_path / "max")))
    assert available_memory() == 1000
    (tmp_path / "max").write_text("max\n")
    assert available_memory() > 2**26
