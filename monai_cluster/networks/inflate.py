# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""2D kernels as 3D kernels, so that a volume network starts from image weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["inflate_kernel", "inflate_state_dict", "inflates_to"]


def inflate_kernel(weight: Tensor, depth: int) -> Tensor:
    """A 2D kernel repeated along the slice axis, which is the last, and divided by their number (Carreira and Zisserman
    2017, arXiv:1705.07750, section 2.2).

    On an input that is the same in all slices the response is that of the 2D kernel, wherever the kernel lies wholly
    inside. A kernel that reaches over the ends meets the convolution's zero padding there: with ``p`` of its ``depth``
    slices outside the response, before a bias, is ``(depth - p) / depth`` of the 2D one.

    Args:
        weight: ``out in h w``.
        depth: slices of the new kernel.

    Returns:
        ``out in h w depth``.

    Raises:
        ValueError: if ``weight`` is no 2D kernel, or ``depth`` is below 1.
    """
    if weight.ndim != 4 or depth < 1:
        raise ValueError(
            f"only 2D kernels, out in h w, are inflated, to a depth of 1 or more; got {tuple(weight.shape)} and depth "
            f"{depth}."
        )
    return (weight / depth).unsqueeze(-1).repeat(1, 1, 1, 1, depth)


def inflates_to(found: Tensor, wanted: Tensor) -> bool:
    """Whether a 2D kernel has the 3D kernel's size in plane; input channels may differ."""
    if found.ndim != 4 or wanted.ndim != 5:
        return False
    return found.shape[0] == wanted.shape[0] and found.shape[2:] == wanted.shape[2:4]


def inflate_state_dict(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """A 2D network's state dict for the same network in 3D; tensors that are no kernels stay as they are.

    Args:
        state: tensors under the names of ``module``.
        module: the 3D network.

    Raises:
        ValueError: if a tensor of ``module`` is missing, or fits neither as it is nor inflated.
    """
    inflated = {}
    for name, wanted in module.state_dict().items():
        if name not in state:
            raise ValueError(f"the 2D state dict has no {name}: give the same network's.")
        found = state[name]
        if inflates_to(found, wanted):
            found = inflate_kernel(found, wanted.shape[-1])
        if found.shape != wanted.shape:
            raise ValueError(
                f"{name} is {tuple(state[name].shape)} and the 3D network needs {tuple(wanted.shape)}: only the slice "
                "axis can be added."
            )
        inflated[name] = found
    return inflated
