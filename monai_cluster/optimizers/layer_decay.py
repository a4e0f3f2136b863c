# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Parameter groups for fine-tuning: lower learning rates for what was learned first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

__all__ = ["finetuning_parameter_groups"]


def finetuning_parameter_groups(
    network: nn.Module,
    learning_rate: float,
    layer_decay: float = 0.75,
    weight_decay: float = 0.05,
    pretrained_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups with a learning rate that falls by ``layer_decay`` per level from the decoder down to the stem.

    Layer-wise decay (Clark et al. 2020, arXiv:2003.10555, section 3; used by BEiT and MAE for fine-tuning) leaves early
    layers, which hold what every image shares, nearly as pretraining left them. Biases and norms get no weight decay.

    Args:
        network: has ``pretrained_modules()``, levels of modules in order of depth; everything else is new.
        learning_rate: of the new parameters.
        layer_decay: factor per level, in (0, 1]; 1 gives all pretrained levels one rate.
        weight_decay: of matrices and kernels.
        pretrained_factor: further factor for all pretrained levels.

    Returns:
        Dictionaries with ``params``, ``lr``, ``weight_decay`` and ``name``, the new parameters first; every parameter
        is in exactly one.

    Raises:
        ValueError: for a factor outside its range.
    """
    if not 0 < layer_decay <= 1 or not pretrained_factor > 0:
        raise ValueError(
            f"layer_decay must lie in (0, 1] and pretrained_factor be positive, got {layer_decay} and "
            f"{pretrained_factor}: freeze the encoder instead of giving it rate 0."
        )
    levels: Sequence[Sequence[nn.Module]] = network.pretrained_modules()  # type: ignore[operator]
    level_of = {
        id(parameter): level for level, modules in enumerate(levels) for module in modules
        for parameter in module.parameters()
    }  # fmt: skip
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for parameter in network.parameters():
        level = level_of.get(id(parameter), len(levels))
        new = level == len(levels)
        decays = parameter.ndim > 1
        rate = learning_rate * (1.0 if new else pretrained_factor * layer_decay ** (len(levels) - level))
        name = ("new" if new else f"level {level}") + ("" if decays else ", no weight decay")
        group = groups.setdefault(
            (level, decays), {"params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0, "name": name}
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups, key=lambda key: (-key[0], not key[1]))]
