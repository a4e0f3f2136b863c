# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One generator for a whole tree of random transforms, because seeding each of them costs more than its work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from monai.transforms import Randomizable, Transform

__all__ = ["SharedRandomState"]


class SharedRandomState:
    """Seed a transform and all transforms inside it with one generator that they draw from in turn.

    ``Compose.set_random_state`` makes a generator of its own, 0.1 ms each, for every random transform inside: 4 ms for
    the views of one image, half of the time that the image takes. Seeded here, a transform draws other numbers than
    after its own ``set_random_state``, as repeatable and as independent.

    Args:
        transform: any callable; transforms are looked for in its attributes, lists, tuples and dictionaries. Those
            defined outside MONAI and this package with a ``set_random_state`` of their own have it called with
            ``state``.
    """

    def __init__(self, transform: Any) -> None:
        found = [one for one in _walk(transform, set()) if isinstance(one, Randomizable)]
        self.sharing = [one for one in found if not _seeds_itself(one)]
        self.others = [one for one in found if _seeds_itself(one)]
        self.state = np.random.RandomState(0)

    def seed(self, seed: int) -> None:
        """Start all of them from ``seed``, 0 to 2³² − 1; only the seed decides what they draw from here on."""
        self.state.seed(seed)
        for transform in self.sharing:
            transform.R = self.state
        for transform in self.others:
            transform.set_random_state(state=self.state)


def _walk(item: Any, seen: set[int]) -> Iterator[Any]:
    """The item and everything that it holds which may be or hold a transform, each once, in a fixed order."""
    if id(item) in seen:
        return
    seen.add(id(item))
    if isinstance(item, (Randomizable, Transform)):
        yield item
    if isinstance(item, (list, tuple)):
        inside = list(item)
    elif isinstance(item, Mapping):
        inside = list(item.values())
    elif callable(item) and not isinstance(item, type):
        inside = list(getattr(item, "__dict__", {}).values())
    else:
        return
    for part in inside:
        yield from _walk(part, seen)


def _seeds_itself(transform: Randomizable) -> bool:
    owner = next(base for base in type(transform).__mro__ if "set_random_state" in vars(base))
    return owner.__module__.split(".")[0] not in ("monai", "monai_cluster")
