# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The joint dataset of both streams, whose augmentation depends on nothing but the sample and the epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from monai_cluster.keys import ClusterKeys
from monai_cluster.transforms import SharedRandomState

from .datasets import ClusterImageDataset, SliceDataset, VolumeDataset

__all__ = ["Address", "JointDataset", "derive_seed"]

Row = dict[str, Any]
Address = tuple[str, int, int]
IMAGES, VOLUMES = ClusterKeys.IMAGES, ClusterKeys.VOLUMES


def derive_seed(*parts: int | str) -> int:
    """Mix numbers and words into a seed of 32 bits; neighbouring numbers give unrelated seeds."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


class JointDataset(Dataset[Row]):
    """Images, slices of volumes and volumes, each item augmented as a function of (seed, epoch, sample index) alone.

    Items are addressed by (stream, epoch, index in the stream): ``dataset["images", 3, 17]``. The image stream is the
    images followed by the slices. So any worker, in any order, gives the same item.

    Args:
        images: 2D images, or None.
        volumes: volumes, or None.
        image_transform: random transform of an image that writes ``views``, see ``image_views``.
        volume_transform: random transform of a volume that writes ``views``, see ``volume_views``.
        seed: base of all augmentation.
        slices_per_volume: slices of each volume that join the image stream; 0 for none.
        slice_jitter: draw the slice anew in its stratum each epoch instead of taking the middle.

    Raises:
        ValueError: when there is nothing in either stream, a transform is missing, or slices are asked of no volumes.
    """

    def __init__(
        self,
        images: ClusterImageDataset | None = None,
        volumes: VolumeDataset | None = None,
        image_transform: Callable[[Any], Any] | None = None,
        volume_transform: Callable[[Any], Any] | None = None,
        seed: int = 0,
        slices_per_volume: int = 0,
        slice_jitter: bool = False,
    ) -> None:
        images = images if images is not None and len(images) else None
        volumes = volumes if volumes is not None and len(volumes) else None
        if images is None and volumes is None:
            raise ValueError("a joint dataset needs images or volumes, got neither; check the datalist")
        if slices_per_volume and volumes is None:
            raise ValueError(f"slices_per_volume is {slices_per_volume} but there are no volumes; set it to 0")
        if (images is not None or slices_per_volume) and image_transform is None:
            raise ValueError("the image stream needs an image_transform, got None; use image_views()")
        if volumes is not None and volume_transform is None:
            raise ValueError("the volume stream needs a volume_transform, got None; use volume_views()")
        self.images = images
        self.volumes = volumes
        self.image_transform: Any = image_transform
        self.volume_transform: Any = volume_transform
        self.random_states = {
            IMAGES: SharedRandomState(image_transform),
            VOLUMES: SharedRandomState(volume_transform),
        }
        self.seed = seed
        self.slice_jitter = slice_jitter
        rows = [*(volumes.rows if volumes else []), *(images.rows if images else [])]
        first = 1 + max(int(row[ClusterKeys.SAMPLE_INDEX]) for row in rows)
        self.slices = SliceDataset(volumes, slices_per_volume, first) if volumes and slices_per_volume else None

    @property
    def num_images(self) -> int:
        """Length of the image stream: images and slices."""
        return (len(self.images) if self.images else 0) + (len(self.slices) if self.slices else 0)

    @property
    def num_volumes(self) -> int:
        """Length of the volume stream."""
        return len(self.volumes) if self.volumes else 0

    @property
    def num_samples(self) -> int:
        """One above the largest ``sample_index``: the size of a bank that holds every stream."""
        return 1 + max(
            [self.sample_index(IMAGES, i) for i in (self.num_images - 1,) if i >= 0] + self._volume_indices()
        )

    def _volume_indices(self) -> list[int]:
        return [int(row[ClusterKeys.SAMPLE_INDEX]) for row in self.volumes.rows] if self.volumes else []

    @property
    def groups(self) -> list[int]:
        """Group of each item of the image stream: the volume's index for slices, one of its own for images."""
        alone = [-1 - i for i in range(len(self.images) if self.images else 0)]
        return alone + ([self.slices.group(i) for i in range(len(self.slices))] if self.slices else [])

    def sample_index(self, stream: str, index: int) -> int:
        """The global ``sample_index`` of an item, from the rows alone."""
        if stream == VOLUMES and self.volumes:
            return int(self.volumes.rows[index][ClusterKeys.SAMPLE_INDEX])
        count = len(self.images) if self.images else 0
        if self.images and index < count:
            return int(self.images.rows[index][ClusterKeys.SAMPLE_INDEX])
        if self.slices:
            return self.slices.first_index + index - count
        raise IndexError(f"stream {stream!r} has no item {index}")

    def __len__(self) -> int:
        return self.num_images + self.num_volumes

    def __getitem__(self, address: Address) -> Row:
        """Load and augment one item.

        Args:
            address: (``"images"`` or ``"volumes"``, epoch, index in the stream).

        Returns:
            what the stream's transform makes of the row, and ``stream``.
        """
        stream, epoch, index = address
        sample_seed = derive_seed(self.seed, epoch, self.sample_index(stream, index))
        if stream == VOLUMES:
            assert self.volumes is not None
            sample, transform = self.volumes[index], self.volume_transform
        else:
            sample, transform = self._image(index, sample_seed), self.image_transform
        self.random_states[VOLUMES if stream == VOLUMES else IMAGES].seed(sample_seed)
        try:
            return {**transform(sample), "stream": stream}
        except Exception as error:
            raise RuntimeError(
                f"sample_index {sample[ClusterKeys.SAMPLE_INDEX]} of {stream} cannot be augmented: "
                f"{error.__cause__ or error}"
            ) from error

    def _image(self, index: int, sample_seed: int) -> Row:
        count = len(self.images) if self.images else 0
        if self.images and index < count:
            return self.images[index]
        assert self.slices is not None
        place = np.random.default_rng(sample_seed).random() if self.slice_jitter else 0.5
        return self.slices.item(index - count, float(place))
