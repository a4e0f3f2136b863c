# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What the networks hand to the losses: the contract between two rooms that never import each other."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["ClusterOutput", "JointOutput", "MaskedOutput", "SliceFeatures"]


class SliceFeatures(NamedTuple):
    """What a slice encoder returns for N images or slices.

    Attributes:
        features: ``N F``, the last stage pooled (2048 for ResNet-50); feeds the image head.
        embedding: ``N D``, the multi-level slice embedding (640 by default); feeds the slice aggregator.
    """

    features: Tensor
    embedding: Tensor


class ClusterOutput(NamedTuple):
    """What a clustering head returns for one stream.

    Attributes:
        embeddings: ``V B D``, unit norm, the G global views first.
        scores: ``V B K``, cosine similarity to the prototypes; with several heads K is the sum of the heads' sizes,
            in order.
        prototypes: ``K D``, the prototypes themselves without gradient (a queue of embeddings needs them), or None.
    """

    embeddings: Tensor
    scores: Tensor
    prototypes: Tensor | None = None


class MaskedOutput(NamedTuple):
    """What masked slice prediction hands to its loss; N is views times batch.

    Attributes:
        predictions: ``N S D``, the decoder's prediction at every slice.
        targets: ``N S D``, the slice embeddings before hiding, without gradient.
        masked: bool ``N S``, True where the slice was hidden from the aggregator (never True on padding).
        padded: bool ``N S``, True where there is no slice.
    """

    predictions: Tensor
    targets: Tensor
    masked: Tensor
    padded: Tensor


class JointOutput(NamedTuple):
    """What one forward of the joint network returns; a stream or term that was not asked for is None.

    Attributes:
        image: the image stream's clustering output.
        volume: the volume stream's clustering output.
        masked: masked slice prediction.
        slices: image-head output of slices matched between the two global views of the volumes (``G B·n D``), for
            the image loss.
    """

    image: ClusterOutput | None
    volume: ClusterOutput | None
    masked: MaskedOutput | None
    slices: ClusterOutput | None = None
