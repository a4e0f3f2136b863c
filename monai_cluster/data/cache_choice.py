# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Where preprocessed samples should be kept: in memory, in a slice store on disk, or nowhere."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from .datalist import Datalist

__all__ = ["available_memory", "choose_cache"]

LOGGER = logging.getLogger(__name__)
PROBED = 3  # samples that are preprocessed to estimate all
MEMORY_SHARE = 0.25  # of the free memory: the rest is the network's, the loaders' and the page cache's
DISK_SHARE = 0.8
DISK_BYTES_PER_S = 2e8  # a slow disk: a store must gain even there
GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def choose_cache(
    rows: Sequence[Mapping[str, Any]] | Datalist,
    preprocessing: Callable[[Any], Any],
    folder: str | Path | None = None,
    memory_limit: int | None = None,
) -> Literal["memory", "store", "none"]:
    """Choose from the size of the preprocessed samples; the reason is logged in one sentence.

    In memory, if all samples fit into ``memory_limit``. Else in a store, if they fit on the disk and reading a sample
    back is faster than making it. Else nowhere. A few samples, spread over the rows, are preprocessed to find out.

    Args:
        rows: of a datalist.
        preprocessing: deterministic transform.
        folder: where a store would be; None rules the store out.
        memory_limit: bytes; a quarter of the free memory by default.

    Returns:
        ``"memory"`` (give the datasets ``cache_rate=1``), ``"store"`` (``store=folder``) or ``"none"``.
    """
    rows = rows.rows if isinstance(rows, Datalist) else rows
    limit = int(MEMORY_SHARE * available_memory()) if memory_limit is None else memory_limit
    sizes, seconds = [], []
    for index in np.unique(np.linspace(0, len(rows) - 1, PROBED).astype(int)) if rows else ():
        start = time.perf_counter()
        sizes.append(_num_bytes(preprocessing(dict(rows[index]))))
        seconds.append(time.perf_counter() - start)
    total = int(np.mean(sizes or [0]) * len(rows))
    choice, reason = _decide(total, limit, folder, float(np.mean(seconds or [0])) * len(rows))
    LOGGER.info("Cache %s: %d samples take about %s preprocessed, %s.", choice, len(rows), _size(total), reason)
    return choice


def _decide(
    total: int, limit: int, folder: str | Path | None, seconds: float
) -> tuple[Literal["memory", "store", "none"], str]:
    if total <= limit:
        return "memory", f"which fits into the {_size(limit)} of memory allowed"
    larger = f"more than the {_size(limit)} of memory allowed"
    if folder is None:
        return "none", f"{larger}, and there is no folder for a store"
    if seconds < 2 * total / DISK_BYTES_PER_S:
        return "none", f"{larger}, and a store would hardly be faster than preprocessing, {seconds:.3g} s for all"
    free = _free_disk(Path(folder))
    if total > DISK_SHARE * free:
        return "none", f"{larger}, and more than the store's disk has to spare, {_size(free)} free"
    return "store", f"{larger} but within the {_size(free)} free on the store's disk"


def available_memory() -> int:
    """Bytes that this process can still take without swapping, the limit of its container included."""
    try:
        text = Path("/proc/meminfo").read_text()
        free = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    for group in GROUPS:
        try:
            free = min(free, int(Path(group).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return free


def _num_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(_num_bytes(part) for part in value.values())
    return sum(_num_bytes(part) for part in value) if isinstance(value, (list, tuple)) else 0


def _free_disk(folder: Path) -> int:
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.4g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.4g} GiB"
