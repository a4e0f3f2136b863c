# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Does what was written compute what the network computes? Every export asks before its file gets its name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["TOLERANCE", "blank_copy", "frozen_copy", "other_sizes", "require_agreement", "tensors_of"]

TOLERANCE = 1e-4
Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(network: Network) -> Network:
    """A copy to compare: in evaluation mode, in float32 on the CPU, without gradients; a detector finds all it can.

    The original stays as it is.
    """
    frozen = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    selector: Any = getattr(frozen, "box_selector", None)
    if selector is not None:
        selector.score_thresh = 0.0  # a detector that finds nothing in noise would agree with any other
    return frozen


def blank_copy(network: Network) -> Network:
    """A frozen copy full of NaN, so that no number which a file fails to bring can come from the original."""
    blank = frozen_copy(network)
    for value in blank.state_dict().values():
        if value.is_floating_point():
            value.fill_(torch.nan)
    return blank


def other_sizes(network: nn.Module, example: Tensor) -> list[Tensor]:
    """Inputs of other batch sizes and of other, uneven lengths, where the network takes any.

    Args:
        network: the original; one that wants, say, multiples of 32 is compared at the example's lengths only.
        example: ``B C H W`` or ``B C H W S``.

    Returns:
        the first image alone, and a batch of B + 1; of volumes, the first one's last two slices are padding there.
    """
    generator = torch.Generator().manual_seed(1)
    lengths = [length + more for length, more in zip(example.shape[2:], (3, 14, 2), strict=False)]
    uneven = torch.rand(len(example) + 1, example.shape[1], *lengths, generator=generator)
    if uneven.ndim == 5:
        uneven[0, ..., -2:] = 0
    try:
        with torch.no_grad():
            network(uneven)
    except (RuntimeError, ValueError):
        uneven = torch.cat([example, example[:1]])
    return [example[:1], uneven]


def require_agreement(
    network: nn.Module,
    reread: Callable[[Tensor], Any],
    examples: Iterable[Tensor],
    what: str,
    tolerance: float = TOLERANCE,
) -> float:
    """Compare the network with what was read back from its file.

    Args:
        network: the original, in evaluation mode.
        reread: what the file holds, as a function of one batch.
        examples: batches.
        what: the file's format, for the message.
        tolerance: largest difference allowed, where a network's outputs are larger than one relative to the largest.

    Returns:
        the largest difference found, measured in the same way.

    Raises:
        ValueError: if the network's own outputs are not finite, or there are none.
        RuntimeError: if shapes or values disagree.
    """
    worst, compared = 0.0, 0
    for example in examples:
        with torch.no_grad():
            expected, found = tensors_of(network(example)), tensors_of(reread(example))
        given = f"on an input of {tuple(example.shape)}"
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (expected, found)]
        if shapes[0] != shapes[1]:
            raise RuntimeError(
                f"the {what} file gives other shapes than the network {given}, {shapes[1]} instead of {shapes[0]}: "
                "nothing was kept; choose another format, or fix the sizes (dynamic=False)."
            )
        for mine, theirs in zip(expected, found, strict=True):
            compared += mine.numel()
            if not mine.isfinite().all():
                raise ValueError(f"the network gives NaN or infinite numbers {given}: there is nothing to compare.")
            if mine.numel():
                scale = max(1.0, float(mine.abs().max()))
                worst = max(worst, float((mine.double() - theirs.double()).nan_to_num(torch.inf).abs().max()) / scale)
        if worst > tolerance:
            raise RuntimeError(
                f"the {what} file computes something else than the network {given}, they differ by {worst:.2g} where "
                f"{tolerance:.0e} is allowed: nothing was kept; choose another format."
            )
    if not compared:
        raise ValueError("the network gives no numbers for the example: give an example on which it finds something.")
    return worst


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors of a network's output, in the order in which they stand.

    Raises:
        TypeError: for anything but tensors, lists, tuples and dictionaries of them.
    """
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = [output[key] for key in sorted(output)]
    if isinstance(output, Sequence) and not isinstance(output, str):
        return [tensor for item in output for tensor in tensors_of(item)]
    raise TypeError(f"a network's output must be tensors, got a {type(output).__name__}: wrap the network.")
