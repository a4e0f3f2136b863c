# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Answers that stand in for the inspectors inside worker processes: some hang, die or eat memory, by file name."""

from __future__ import annotations

import base64
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from monai_cluster.integrity.findings import Facts, Inspection
from monai_cluster.integrity.limits import Limits

HEAVY = ("torch", "monai", "matplotlib", "pandas", "sklearn")


def misbehave(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Do what the file's name says; an ordinary name is accepted."""
    if request["do"] == "list":
        return {"facts": {}, "findings": []}
    name = Path(request["images"][0]).name
    if "hang" in name:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        while True:
            time.sleep(0.05)
    if "killed" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "abort" in name:
        os.abort()
    if "leave" in name:
        os._exit(0)
    if "memory" in name:
        np.ones(limits.memory_bytes, dtype=np.uint8)
    if "raise" in name:
        raise RuntimeError("PLANTED^NAME in a message")
    if "chatter" in name:
        os.write(1, b"PLANTED^NAME on stdout\n")
        os.write(2, b"PLANTED^NAME on stderr\n")
    return accepted(name)


def log_reads(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Accept everything, note each file and the process in ``reads.log`` beside the source, and take a moment."""
    path = Path(request["images"][0])
    with (path.parents[1] / "reads.log").open("a") as file:
        file.write(f"{os.getpid()} {path.name}\n")
    time.sleep(float((path.parents[1] / "pause").read_text()) if (path.parents[1] / "pause").exists() else 0)
    return accepted(path.name)


def list_modules(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Tell which heavy modules the worker has imported, beside what real inspectors need."""
    import monai_cluster.integrity.candidate_inspection  # noqa: F401

    return {"facts": {"dtype": ",".join(name for name in HEAVY if name in sys.modules)}, "findings": []}


def stop_at_grouping(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Hang where a file called ``hang`` is to be grouped; else do what real workers do."""
    from monai_cluster.integrity.candidate_inspection import answer

    while request["do"] == "group" and any("hang" in Path(one).name for one in request["files"]):
        time.sleep(0.05)
    return answer(request, limits)


def accepted(name: str) -> dict[str, Any]:
    """An accepted image of noise that no other name has."""
    grid = np.random.default_rng(list(name.encode())).integers(0, 255, (32, 32), dtype=np.uint8)
    facts = {one: getattr(Facts(), one) for one in Facts.__dataclass_fields__ if one != "thumbnail"}
    facts |= {"kind": "image", "shape": [32, 32], "content_hash": name, "mean": 1.0, "std": 1.0, "minimum": 0.0}
    facts |= {"picture_hash": f"{int(np.frombuffer(grid.tobytes()[:8], np.uint64)[0]):016x}", "maximum": 2.0}
    assert Inspection().verdict == "accept"
    return {"facts": facts, "findings": [], "sides": [32, 32], "grid": base64.b64encode(grid.tobytes()).decode()}
