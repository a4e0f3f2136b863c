# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Weights for others: plain state dicts as safetensors, for MONAI's bundles, and in torchvision's layout."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from monai_cluster.networks import ResNetStages, SliceEncoder

from .round_trip import blank_copy, frozen_copy, require_agreement
from .save import _replace
from .torchvision_layout import to_torchvision_state_dict

__all__ = ["export_bundle_model", "export_safetensors", "export_torchvision"]

logger = logging.getLogger(__name__)


def export_safetensors(network: nn.Module, example: Tensor, path: str | Path) -> Path:
    """The network's state dict as a safetensors file, which cannot run code when it is read.

    Args:
        network: any module.
        example: one batch, ``B C H W`` or ``B C H W S``, for the comparison.
        path: the file; an old one is replaced only once the new one is checked.

    Returns:
        the file's path.

    Raises:
        ValueError: if weights or outputs are not finite.
        RuntimeError: if what is read back does not compute the same.
    """
    return _export_state(
        network, example, path, "safetensors", lambda state, file: save_file(state, file, {"format": "pt"}), load_file
    )


def export_bundle_model(network: nn.Module, example: Tensor, path: str | Path) -> Path:
    """The network's state dict as MONAI's bundles hold it, ``models/model.pt``, loadable with ``weights_only=True``.

    Args:
        network: what the bundle calls ``network_def``.
        example: one batch for the comparison.
        path: the file, such as ``bundle/models/model.pt``.

    Returns:
        the file's path.

    Raises:
        ValueError: if weights or outputs are not finite.
        RuntimeError: if what is read back does not compute the same.
    """
    return _export_state(network, example, path, "bundle's model", torch.save, _load_weights_only)


def export_torchvision(network: nn.Module, example: Tensor, path: str | Path, in_channels: int = 3) -> Path:
    """The slice encoder's backbone under torchvision's names, as a file of ``torch.save``.

    For ``torchvision.models.resnet50().load_state_dict(torch.load(path), strict=False)``; only ``fc`` is missing.

    Args:
        network: a ``SliceEncoder``, or a network that holds one.
        example: images ``B C H W`` or volumes ``B C H W S`` as the encoder takes them, for the comparison.
        path: the file.
        in_channels: of the stem; a grey image repeated over them gives the encoder's features.

    Returns:
        the file's path.

    Raises:
        TypeError: if the network holds no slice encoder; inflated 3D kernels are no torchvision ResNet's.
        ValueError: if the encoder's backbone is a module of one's own, its channels are neither one nor
            ``in_channels``, or weights or outputs are not finite.
        RuntimeError: if what is read back does not compute the same.
    """
    encoder = next((part for part in network.modules() if isinstance(part, SliceEncoder)), None)
    if encoder is None:
        raise TypeError(
            f"{type(network).__name__} holds no SliceEncoder, and torchvision's layout is that of 2D ResNets: export "
            "the pretrained encoder, or choose another format."
        )
    if encoder.in_channels not in (1, in_channels):
        raise ValueError(
            f"the encoder takes {encoder.in_channels} different channels, which cannot become {in_channels}: give "
            f"in_channels={encoder.in_channels}."
        )
    encoder = frozen_copy(encoder)
    state = to_torchvision_state_dict(encoder, in_channels)
    _require_finite(state)
    model = encoder.model_name

    def write(unfinished: Path) -> None:
        torch.save(state, unfinished)
        reread = ResNetStages(model, in_channels)
        reread.load_state_dict(_load_weights_only(unfinished))
        reread.eval()
        repeated = in_channels if encoder.in_channels == 1 else 1
        images = example if example.ndim == 4 else example.movedim(-1, 1).flatten(0, 1)

        def stages(x: Tensor) -> list[Tensor]:
            maps: list[Tensor] = reread(x.repeat(1, repeated, 1, 1))
            return maps

        _report(path, require_agreement(encoder.backbone, stages, [images], "torchvision"))

    return _written(path, write)


def _export_state(
    network: nn.Module,
    example: Tensor,
    path: str | Path,
    what: str,
    save: Callable[[dict[str, Tensor], Path], Any],
    load: Callable[[Path], dict[str, Tensor]],
) -> Path:
    frozen = frozen_copy(network)
    # Copies: networks may list a block under two names, and safetensors refuses shared memory.
    state = {name: value.clone().contiguous() for name, value in frozen.state_dict().items()}
    _require_finite(state)

    def write(unfinished: Path) -> None:
        save(state, unfinished)
        reread = blank_copy(frozen)
        reread.load_state_dict(load(unfinished))
        _report(path, require_agreement(frozen, reread, [example], what))

    return _written(path, write)


def _written(path: str | Path, write: Callable[[Path], Any]) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _replace(target, write)
    return target


def _report(path: str | Path, difference: float) -> None:
    logger.info("%s agrees with the network within %.1e", Path(path).name, difference)


def _require_finite(state: dict[str, Tensor]) -> None:
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{broken[0]} and {len(broken) - 1} more hold NaN or infinite weights: the training broke down."
        )


def _load_weights_only(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
