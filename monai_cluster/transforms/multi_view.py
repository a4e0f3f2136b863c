# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Several independently augmented views of one sample."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import MAX_SEED

from monai_cluster.keys import ClusterKeys

__all__ = ["MultiView", "MultiViewd"]

PER_SLICE = (ClusterKeys.SLICE_INDEX, ClusterKeys.SLICE_POSITION, ClusterKeys.PADDED)


class MultiView(Randomizable, Transform):
    """Call a random transform once per view on the same input; each view draws for itself.

    Args:
        global_transform: transform of the global views, or a sequence of which each view draws one.
        local_transform: transform of the local views.
        num_global: number of global views G; they come first.
        num_local: number of local views.
        distinct: no two global views of a sample draw the same transform of the sequence (the paper's rule in 3D).

    Raises:
        ValueError: for no views, local views without a transform, or ``distinct`` with too few transforms.
    """

    def __init__(
        self,
        global_transform: Callable[[Any], Any] | Sequence[Callable[[Any], Any]],
        local_transform: Callable[[Any], Any] | None = None,
        num_global: int = 2,
        num_local: int = 0,
        distinct: bool = False,
    ) -> None:
        # a list attribute, never a dictionary: MONAI's loader re-seeds what it finds in attributes and lists only
        self.global_transforms = [global_transform] if callable(global_transform) else list(global_transform)
        self.local_transform = local_transform
        if num_global < 1 or num_local < 0:
            raise ValueError(
                f"num_global must be at least 1 and num_local at least 0, got {num_global} and {num_local}"
            )
        if num_local and local_transform is None:
            raise ValueError(f"{num_local} local views need a local_transform, got None; pass one or set num_local=0")
        if distinct and len(self.global_transforms) < num_global:
            raise ValueError(
                f"distinct views need at least num_global = {num_global} transforms to choose from, got "
                f"{len(self.global_transforms)}; pass a sequence of transforms, or distinct=False"
            )
        self.num_global = num_global
        self.num_local = num_local
        self.distinct = distinct
        self.choices: list[int] = []

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> MultiView:
        """Seed this transform, and each transform inside with its own seed derived from it."""
        super().set_random_state(seed, state)
        inside: list[Any] = [*self.global_transforms, self.local_transform]
        for transform in inside:
            if isinstance(transform, Randomizable):
                transform.set_random_state(seed=int(self.R.randint(MAX_SEED, dtype="uint32")))
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw which transform each global view gets; the last draw stays readable in ``choices``."""
        count = len(self.global_transforms)
        if count == 1:
            self.choices = [0] * self.num_global
        else:
            self.choices = [int(i) for i in self.R.choice(count, self.num_global, replace=not self.distinct)]

    def __call__(self, data: Any) -> list[Any]:
        """Return the V views, global ones first; a dictionary is copied for each view."""
        self.randomize()
        transforms = [self.global_transforms[choice] for choice in self.choices]
        if self.local_transform is not None:
            transforms += [self.local_transform] * self.num_local
        return [transform(dict(data) if isinstance(data, Mapping) else data) for transform in transforms]


class MultiViewd(Randomizable, MapTransform):
    """Dictionary form of :class:`MultiView`: writes ``views`` and drops the source image.

    The view transforms get a dictionary with the image and, for sliced volumes, ``slice_index``, ``slice_position`` and
    ``padded``; where a view returns these they become lists with one tensor per view. Views are plain tensors.

    Args:
        keys: the one entry to make views of.
        global_transform, local_transform, num_global, num_local, distinct: as for :class:`MultiView`.

    Raises:
        ValueError: for more than one key.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        global_transform: Callable[[Any], Any] | Sequence[Callable[[Any], Any]],
        local_transform: Callable[[Any], Any] | None = None,
        num_global: int = 2,
        num_local: int = 0,
        distinct: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys)
        if len(self.keys) != 1:
            raise ValueError(f"views are made of exactly one entry, got keys {self.keys}; name one key")
        self.multi_view = MultiView(global_transform, local_transform, num_global, num_local, distinct)

    @property
    def choices(self) -> list[int]:
        """Which transform each global view of the last sample got."""
        return self.multi_view.choices

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> MultiViewd:
        """Seed this transform and all inside."""
        super().set_random_state(seed, state)
        self.multi_view.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """The transform inside draws for itself."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make the views."""
        output, key = dict(data), self.keys[0]
        if key not in output:
            raise KeyError(
                f"views need the entry {key!r}, got {sorted(map(str, output))}; load the image before MultiViewd"
            )
        source = {name: output.pop(name) for name in (key, *PER_SLICE) if name in output}
        views = self.multi_view(source)
        output[ClusterKeys.VIEWS] = [_plain(view[key]) for view in views]
        for name in PER_SLICE:
            if all(name in view for view in views):
                output[name] = [torch.as_tensor(view[name]) for view in views]
        return output


def _plain(view: Any) -> torch.Tensor:
    """A contiguous float32 tensor without meta data: batch operations on MetaTensor are 100 times slower."""
    tensor: torch.Tensor = view.as_tensor() if hasattr(view, "as_tensor") else torch.as_tensor(view)
    return tensor.to(torch.float32).contiguous()
