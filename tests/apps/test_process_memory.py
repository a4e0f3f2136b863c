# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Freed memory is used again: the second large tensor costs no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from monai_cluster.apps import keep_freed_memory

# A process of its own: the setting cannot be taken back. Nothing is printed but the faults of tensors two to five.
COUNT_FAULTS = """
import resource, sys, torch
from monai_cluster.apps import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory("cpu") is True
torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(16 << 20)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_was_freed_costs_no_page_faults_again() -> None:
    pages = 4 * (64 << 20) // 4096
    usual, kept = faults("usual"), faults("keep")
    assert kept < 100
    assert usual > 20 * kept or usual > pages // 1024  # huge pages make few faults of many


def test_nothing_is_changed_for_a_gpu() -> None:
    assert keep_freed_memory("cuda") is False
