# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Whose checkpoint it is, where the encoder's tensors stand in it, and of which architecture they are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

__all__ = ["find_prefix", "look_of", "origin_of", "resnet_of"]

# Where a file holds several networks of one shape: the trained query encoder before its moving average (MoCo), the
# moving average before the student (DINO, as its authors evaluate), ours before any.
_RATHER = ("slice_encoder.", "encoder_q.", "teacher.", "student.", "online")
_RATHER_NOT = ("encoder_k.", "momentum", "target", "ema")

_BLOCKS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


def find_prefix(names: Collection[str], tensors: Mapping[str, Tensor]) -> str | None:
    """The prefix under which a checkpoint holds most of a module's tensors; None if it holds none of them.

    Args:
        names: the module's tensor names.
        tensors: the checkpoint's.
    """
    for anchor in names:
        found = {name[: -len(anchor)] for name in tensors if name.endswith(anchor)}
        candidates = [prefix for prefix in found if not prefix or prefix.endswith(".")]
        if candidates:
            return max(candidates, key=lambda prefix: (_hits(prefix, names, tensors), _preference(prefix), prefix))
    return None


def _hits(prefix: str, names: Collection[str], tensors: Mapping[str, Tensor]) -> int:
    return sum(prefix + name in tensors for name in names)


def _preference(prefix: str) -> int:
    for rank, mark in enumerate(_RATHER):
        if mark in prefix:
            return len(_RATHER) - rank
    return -1 if any(mark in prefix for mark in _RATHER_NOT) else 0


def origin_of(prefix: str, names: Iterable[str]) -> str:
    """Whose checkpoint has such a prefix and such other tensors, in words."""
    names = list(names)
    rules = (
        ("VISSL", "classy_state_dict" in prefix or "_feature_blocks" in prefix),
        ("MoCo", "encoder_q." in prefix),
        ("DINO", "teacher." in prefix or "student." in prefix),
        ("monai_cluster", "slice_encoder." in prefix or "slice_aggregator." in prefix),
        ("SwAV or DeepCluster", any("prototypes" in name and "." in name for name in names)),
        ("torchvision", prefix == "" and "fc.weight" in names),
    )
    origin = next((name for name, holds in rules if holds), "plain state dict")
    return f"{origin}, prefix {prefix!r}" if prefix else origin


def resnet_of(tensors: Mapping[str, Tensor]) -> str:
    """Which ResNet the tensors' names make, such as ``resnet50``; "" if they make none."""
    counts = [0, 0, 0, 0]
    for name in tensors:
        if found := re.search(r"(?:^|\.)layer([1-4])\.(\d+)\.conv1\.weight$", name):
            stage = int(found[1]) - 1
            counts[stage] = max(counts[stage], int(found[2]) + 1)
    if not any(counts):
        return ""
    bottleneck = any(re.search(r"(?:^|\.)layer1\.0\.conv3\.weight$", name) for name in tensors)
    return _BLOCKS.get((tuple(counts), bottleneck), f"a ResNet with {'-'.join(map(str, counts))} blocks")


def look_of(tensors: Mapping[str, Tensor]) -> str:
    """The architecture that names and shapes suggest, such as ``resnet50 with 3 input channels``; "" if unknown."""
    model = resnet_of(tensors)
    if not model:
        return "a vision transformer" if any("patch_embed" in name for name in tensors) else ""
    stems = [
        value for name, value in tensors.items() if re.search(r"(?:^|\.)conv1\.weight$", name) and "layer" not in name
    ]
    if not stems:
        return model
    channels = stems[0].shape[1]
    return f"{'3D ' * (stems[0].ndim == 5)}{model} with {channels} input channel{'s' * (channels != 1)}"
