# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Images and volumes in, what every loss needs out: one forward, so that DDP sees one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.outputs import ClusterOutput, JointOutput, MaskedOutput, SliceFeatures

from .cluster_head import ClusterHead
from .encoded_slices import EncodedSlices, check_volume, spread_rows
from .masked_slices import MaskedSliceDecoder
from .matched_slices import match_slices
from .slice_encoder import SliceEncoder, as_channels_last

__all__ = ["JointClusterNet"]

PARTS = ("slice_encoder", "slice_aggregator", "image_head", "volume_head", "mask_decoder")
TERMS = ("image", "volume", "mask", "slice")


class JointClusterNet(nn.Module):
    """One encoder for images and slices, one aggregator over slices, and a head for each loss (arXiv:2212.01893).

    Args:
        slice_encoder: encodes images and slices.
        slice_aggregator: turns a volume's slice embeddings into tokens and one embedding; None without volumes.
        image_head: clusters images (and matched slices) by the encoder's features.
        volume_head: clusters volumes by the aggregator's embedding.
        mask_decoder: hides slice embeddings and predicts them.
        matched_slices: so many slices of each volume, seen by both global views, go through ``image_head``; 0 for none.
        channels_last: keep the encoder and its input in channels-last memory, which most convolutions run faster in.
        mask_trains_encoder: let the mask loss reach the slice encoder too; off, it trains aggregator and decoder only.

    Raises:
        ValueError: if parts are missing that others need, or their dimensions disagree.
    """

    def __init__(
        self,
        slice_encoder: SliceEncoder,
        slice_aggregator: nn.Module | None = None,
        image_head: ClusterHead | None = None,
        volume_head: ClusterHead | None = None,
        mask_decoder: MaskedSliceDecoder | None = None,
        matched_slices: int = 0,
        channels_last: bool = False,
        mask_trains_encoder: bool = False,
    ) -> None:
        super().__init__()
        self.slice_encoder, self.slice_aggregator = slice_encoder, slice_aggregator
        self.image_head, self.volume_head, self.mask_decoder = image_head, volume_head, mask_decoder
        self.matched_slices, self.channels_last = matched_slices, channels_last
        self.mask_trains_encoder = mask_trains_encoder
        self.terms: tuple[str, ...] = TERMS
        self._frozen: dict[str, list[nn.Parameter]] = {}
        self._check_parts()
        if channels_last:
            slice_encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _check_parts(self) -> None:
        if self.slice_aggregator is None and (self.volume_head is not None or self.mask_decoder is not None):
            raise ValueError(
                "volume_head and mask_decoder need a slice_aggregator, got None: give one, or leave them out."
            )
        if self.matched_slices < 0 or (self.matched_slices and self.image_head is None):
            raise ValueError(f"matched_slices needs an image_head and 0 or more slices, got {self.matched_slices}.")
        embedding, feature = self.slice_encoder.embedding_dim, self.slice_encoder.feature_dim
        for name, needs, gets in (
            ("slice_aggregator", getattr(self.slice_aggregator, "dim", None), embedding),
            ("volume_head", getattr(self.volume_head, "in_dim", None), embedding),
            ("mask_decoder", getattr(self.mask_decoder, "dim", None), embedding),
            ("image_head", getattr(self.image_head, "in_dim", None), feature),
        ):
            if needs is not None and needs != gets:
                raise ValueError(f"{name} takes {needs} numbers, but the slice encoder gives {gets}: make them equal.")

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The parts that there are, by name."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    def set_terms(self, terms: Sequence[str]) -> None:
        """Compute only what these loss terms need: any of ``image``, ``volume``, ``mask``, ``slice``.

        Raises:
            ValueError: for an unknown term.
        """
        unknown = sorted(set(terms) - set(TERMS))
        if unknown:
            raise ValueError(f"unknown terms {unknown}; the terms are {', '.join(TERMS)}.")
        self.terms = tuple(terms)

    def freeze(self, *names: str) -> None:
        """Stop training these parts: no gradient, batch norm and dropout as in evaluation, also after ``train()``.

        Raises:
            ValueError: for a part that does not exist.
        """
        for name in self._known(names):
            if name not in self._frozen:
                trained = [parameter for parameter in self.parts[name].parameters() if parameter.requires_grad]
                self._frozen[name] = trained
                for parameter in trained:
                    parameter.requires_grad_(False)
                    parameter.grad = None  # or the optimiser would go on with the last one
                self.parts[name].eval()

    def unfreeze(self, *names: str) -> None:
        """Train these parts again, as far as they were trained before :meth:`freeze`.

        Raises:
            ValueError: for a part that does not exist.
        """
        for name in self._known(names):
            for parameter in self._frozen.pop(name, []):
                parameter.requires_grad_(True)
            self.parts[name].train(self.training)

    def _known(self, names: Sequence[str]) -> Sequence[str]:
        unknown = [name for name in names if name not in self.parts]
        if unknown:
            raise ValueError(f"this network has no part {unknown}; it has {', '.join(self.parts)}.")
        return names

    def train(self, mode: bool = True) -> JointClusterNet:
        """Switch all parts but the frozen ones."""
        super().train(mode)
        for name in self._frozen:
            self.parts[name].eval()
        return self

    def forward(self, images: Mapping[str, Any] | None = None, volumes: Mapping[str, Any] | None = None) -> JointOutput:
        """One pass over both streams.

        Args:
            images: ``views``, a list of V tensors ``B C H W`` whose sizes may differ.
            volumes: ``views``, a list of V tensors ``B C H W S``; optionally ``padded`` (V bool ``B S``),
                ``slice_position`` (V float ``B S``, mm) and ``slice_index`` (V int64 ``B S``, for matched slices).

        Returns:
            What each head made of its stream; None where there is no stream, no head, or the term is not asked for.

        Raises:
            ValueError: if views have the wrong shape, or padding stands before real slices.
        """
        image = volume = masked = matched = None
        if images is not None and self.image_head is not None and "image" in self.terms:
            image = self.image_head(self._encode_by_size(images[Keys.VIEWS])[0])
        wants_slices = self.matched_slices > 0 and "slice" in self.terms
        wants_volume = self.volume_head is not None and "volume" in self.terms
        wants_mask = self.mask_decoder is not None and "mask" in self.terms
        if volumes is not None and (wants_slices or wants_volume or wants_mask):
            num_views = len(volumes[Keys.VIEWS])
            slices = self._encode_volumes(volumes)
            if wants_volume:
                volume = self._cluster_volumes(slices, num_views)
            if wants_mask:
                masked = self._predict_masked(slices)
            if wants_slices:
                matched = self._cluster_matched(slices, volumes, num_views)
        return JointOutput(image, volume, masked, matched)

    def encode_images(self, x: Tensor) -> SliceFeatures:
        """Features ``N F`` and embeddings ``N D`` of images or slices ``N C H W``."""
        with self._gradient_of("slice_encoder"):
            found: SliceFeatures = self.slice_encoder(as_channels_last(x) if self.channels_last else x)
            return found

    def encode_slices(self, x: Tensor, padded: Tensor | None = None) -> SliceFeatures:
        """Features ``B S F`` and embeddings ``B S D`` of volumes ``B C H W S``, zero on padding (which is not encoded).

        Raises:
            ValueError: if shapes disagree.
        """
        check_volume(x, padded)
        slices = x.permute(0, 4, 1, 2, 3)
        if padded is None or not bool(padded.any()):
            return SliceFeatures(
                *(part.view(*slices.shape[:2], -1) for part in self.encode_images(slices.flatten(0, 1)))
            )
        return SliceFeatures(*(spread_rows(part, ~padded) for part in self.encode_images(slices[~padded])))

    def encode_volume(
        self, x: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embed volumes.

        Args:
            x: ``B C H W S``.
            padded: bool ``B S``, True where there is no slice.
            position_mm: ``B S``.

        Returns:
            slice embeddings ``B S D``, tokens ``B S D``, and the volume's embedding ``B D`` at unit length.

        Raises:
            ValueError: without a slice aggregator, or if shapes disagree.
        """
        if self.slice_aggregator is None:
            raise ValueError("this network has no slice_aggregator, so it cannot embed volumes: build it with one.")
        embedding = self.encode_slices(x, padded).embedding
        tokens, volume = self.slice_aggregator(embedding, padded, position_mm)
        return embedding, tokens, volume

    def _gradient_of(self, part: str) -> AbstractContextManager[Any]:
        return torch.no_grad() if part in self._frozen else nullcontext()

    def _encode_by_size(self, views: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Features and embeddings of each view ``N C H W``; views of one size go through the encoder together."""
        sizes: dict[tuple[int, ...], list[int]] = {}
        for number, view in enumerate(views):
            sizes.setdefault(tuple(view.shape[1:]), []).append(number)
        features: list[Tensor] = [views[0]] * len(views)
        embedding: list[Tensor] = [views[0]] * len(views)
        for numbers in sizes.values():
            found = self.encode_images(torch.cat([views[number] for number in numbers]))
            lengths = [len(views[number]) for number in numbers]
            for number, *parts in zip(
                numbers, torch.split(found.features, lengths), torch.split(found.embedding, lengths), strict=True
            ):
                features[number], embedding[number] = parts
        return features, embedding

    def _encode_volumes(self, volumes: Mapping[str, Any]) -> EncodedSlices:
        """Encode the real slices of all views and put them in place."""
        views: Sequence[Tensor] = volumes[Keys.VIEWS]
        given = volumes.get(Keys.PADDED)
        longest = max(view.shape[-1] for view in views)
        padded = []
        for number, view in enumerate(views):
            check_volume(view, None if given is None else given[number])
            missing = (
                view.new_zeros(view.shape[0], view.shape[-1], dtype=torch.bool) if given is None else given[number]
            )
            padded.append(nn.functional.pad(missing, (0, longest - view.shape[-1]), value=True))
        real = [
            view.permute(0, 4, 1, 2, 3)[~missing[:, : view.shape[-1]]]
            for view, missing in zip(views, padded, strict=True)
        ]
        features, embedding = (
            torch.cat([spread_rows(values, ~missing) for values, missing in zip(parts, padded, strict=True)])
            for parts in self._encode_by_size(real)
        )
        position = volumes.get(Keys.SLICE_POSITION)
        if position is not None:
            position = torch.cat([nn.functional.pad(part, (0, longest - part.shape[-1])) for part in position])
        return EncodedSlices(features, embedding, torch.cat(padded), position)

    def _cluster_volumes(self, slices: EncodedSlices, num_views: int) -> ClusterOutput:
        assert self.slice_aggregator is not None
        assert self.volume_head is not None
        _, volume = self.slice_aggregator(slices.embedding, slices.mask, slices.position_mm)
        output: ClusterOutput = self.volume_head(volume.chunk(num_views))
        return output

    def _predict_masked(self, slices: EncodedSlices) -> MaskedOutput:
        assert self.slice_aggregator is not None
        assert self.mask_decoder is not None
        masked = self.mask_decoder.draw(slices.padded)
        # The paper trains the mask stage on a frozen encoder: its easiest answer to this loss is to say little.
        embedding = slices.embedding if self.mask_trains_encoder else slices.embedding.detach()
        hidden = self.mask_decoder.hide(embedding, masked)
        tokens, _ = self.slice_aggregator(hidden, slices.mask, slices.position_mm)
        return MaskedOutput(self.mask_decoder(tokens), slices.embedding.detach(), masked, slices.padded)

    def _cluster_matched(
        self, slices: EncodedSlices, volumes: Mapping[str, Any], num_views: int
    ) -> ClusterOutput | None:
        assert self.image_head is not None
        if num_views < 2 or Keys.SLICE_INDEX not in volumes:
            raise ValueError(
                f"matched slices need two views with their {Keys.SLICE_INDEX!r}, got {num_views} views and the entries "
                f"{sorted(volumes)}: use transforms that keep it, or set matched_slices to 0."
            )
        indices = volumes[Keys.SLICE_INDEX]
        places = match_slices(indices[0], indices[1], self.matched_slices)
        if places is None:
            return None
        views = slices.features.chunk(num_views)
        chosen = [
            view.gather(1, place[..., None].expand(-1, -1, view.shape[-1]))
            for view, place in zip(views[:2], places, strict=True)
        ]
        output: ClusterOutput = self.image_head([part.flatten(0, 1) for part in chosen])
        return output
