# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From tissues to pixels: what scanners and patients vary without changing the anatomy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .phantom_anatomy import TISSUES, Part, Region, paint

__all__ = ["Rendered", "render_projection", "render_volume", "scan", "tissue_values", "turned"]

Array = npt.NDArray[np.float32]

# tissue: Hounsfield units, then MR brightness with T1 and with T2 weighting
APPEARANCE = {
    "air": (-1000, 0.0, 0.0),
    "fat": (-95, 0.95, 0.62),
    "muscle": (55, 0.42, 0.22),
    "bone": (850, 0.06, 0.05),
    "marrow": (230, 0.80, 0.50),
    "lung": (-820, 0.06, 0.10),
    "fluid": (8, 0.14, 1.0),
    "grey": (40, 0.46, 0.62),
    "white": (27, 0.64, 0.44),
    "liver": (65, 0.58, 0.28),
    "spleen": (52, 0.40, 0.55),
    "kidney": (38, 0.48, 0.72),
    "blood": (48, 0.30, 0.14),
    "myocardium": (60, 0.50, 0.36),
    "gut": (35, 0.45, 0.40),
    "gas": (-950, 0.02, 0.02),
    "cartilage": (110, 0.48, 0.76),
}
ENHANCING = ("blood", "kidney", "liver", "spleen", "myocardium")


class Rendered(NamedTuple):
    """Pixels with their geometry.

    Attributes:
        pixels: ``W H S`` (x to the right, y to the front, z to the head) in HU or arbitrary units; a projection is ``W
            S``.
        spacing: mm per voxel along each axis.
        origin: of the first voxel, mm.
    """

    pixels: Array
    spacing: tuple[float, ...]
    origin: tuple[float, ...]


def render_volume(
    parts: list[Part], region: Region, modality: str, shape: tuple[int, int, int], rng: np.random.Generator
) -> Rendered:
    """A CT (HU) or MR (arbitrary units) volume of a body with this scan's own position, field of view and contrast.

    Args:
        parts: the body.
        region: whose box is shown, more or less.
        modality: ``"CT"`` or ``"MR"``.
        shape: ``W H S``.
        rng: drawn from.
    """
    width, height, num_slices = shape
    pixel = 2 * max(region.extent[:2]) * float(rng.uniform(0.78, 1.3)) / max(width, height)
    reach = region.extent[2] * (float(rng.uniform(0.65, 0.95)) if num_slices > 1 else 0.0)
    shift = float(rng.uniform(-1, 1)) * (region.extent[2] * 0.72 - min(reach, region.extent[2] * 0.72))
    if num_slices == 1:
        shift = float(rng.uniform(-0.6, 0.6)) * region.extent[2]
    thickness = 2 * reach / num_slices if num_slices > 1 else pixel
    origin = tuple(-(n - 1) / 2 * pixel + float(rng.normal(0, 0.05 * n)) * pixel for n in (width, height))
    u = np.arange(width, dtype=np.float32)[:, None, None] * pixel + np.float32(origin[0])
    v = np.arange(height, dtype=np.float32)[None, :, None] * pixel + np.float32(origin[1])
    z = (np.arange(num_slices, dtype=np.float32)[None, None] - (num_slices - 1) / 2) * thickness + shift
    x, y = turned(u, v, rng)
    labels = paint(parts, x, y, z.astype(np.float32))
    pixels = scan(tissue_values(modality, rng)[labels], modality, rng)
    return Rendered(pixels, (pixel, pixel, thickness), (*origin, float(z.flat[0])))


def render_projection(
    parts: list[Part], region: Region, shape: tuple[int, int], lateral: bool, rng: np.random.Generator
) -> Rendered:
    """An X-ray-like projection from the front or the side, brighter or darker where more was absorbed.

    Args:
        parts: the body.
        region: whose box is shown, more or less.
        shape: ``W S``, across and along the body.
        lateral: from the patient's side instead of the front.
        rng: drawn from.
    """
    across, depth = (region.extent[1], region.extent[0]) if lateral else region.extent[:2]
    pixel = 2 * max(across, region.extent[2]) * float(rng.uniform(0.75, 1.15)) / max(shape)
    step = 2 * depth / 44
    line = (np.arange(44, dtype=np.float32) - 21.5) * np.float32(step)
    s, z = (((np.arange(n) - (n - 1) / 2) * pixel + rng.normal(0, 0.05 * n) * pixel).astype(np.float32) for n in shape)
    # Each ray samples the depth from its own start: equal starts would draw rings into smooth surfaces.
    line = line[None, :, None] + rng.uniform(-0.5, 0.5, (len(s), 1, 1)).astype(np.float32) * np.float32(step)
    s = s[:, None, None]
    x, y = (line, s) if lateral else (s, line)
    table = _hounsfield(rng)
    attenuation = np.clip(table / 1000 + 1, 0, None) * (1 + 1.2 * (table > 150))  # bone absorbs more than its density
    thickness = attenuation.astype(np.float32)[paint(parts, x, y, z[None, None])].sum(1) * np.float32(step * 0.012)
    transmitted = np.exp(-thickness) + rng.normal(0, 0.01, thickness.shape) * np.exp(-thickness / 2)
    pixels = -np.log(np.clip(transmitted, 0.004, None)).astype(np.float32)
    low, high = np.percentile(pixels, (1, 99.5))
    pixels = np.clip((pixels - low) / max(high - low, 1e-3), 0, 1) ** float(np.exp(rng.uniform(-0.6, 0.6)))
    pixels = _blurred(pixels[..., None], int(rng.integers(0, 3)))[..., 0]
    if rng.random() < 0.5:  # either polarity is in use
        pixels = 1 - pixels
    return Rendered(_collimated(pixels.astype(np.float32), rng), (pixel, pixel), (0.0, 0.0))


def turned(u: Array, v: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A small turn of the patient in the plane."""
    angle = rng.normal(0, np.deg2rad(8))
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * u - s * v, s * u + c * v


def _hounsfield(rng: np.random.Generator) -> Array:
    """HU of each tissue for one scan, with contrast agent in half of them."""
    dose = rng.uniform(60, 190) if rng.random() < 0.5 else 0.0
    values = [hu + dose * (name in ENHANCING) * rng.uniform(0.5, 1.2) for name, (hu, _, _) in APPEARANCE.items()]
    return np.array(values, np.float32)


def tissue_values(modality: str, rng: np.random.Generator) -> Array:
    """Brightness of each of ``TISSUES`` for one scan: HU, or between about 0 and 1 for MR.

    One of many MR sequences is drawn: a mixture of T1 and T2 weighting with its own gamma.

    Args:
        modality: ``"CT"`` or ``"MR"``.
        rng: drawn from.
    """
    if modality == "CT":
        return _hounsfield(rng)
    weight = rng.beta(0.5, 0.5)  # mostly near one of the two ends
    table = np.array([weight * t1 + (1 - weight) * t2 for _, t1, t2 in APPEARANCE.values()])
    table = np.clip(table * np.exp(rng.normal(0, 0.22, len(table))), 0, None) ** np.exp(rng.uniform(-0.5, 0.5))
    values: Array = table.astype(np.float32)
    return values


def scan(pixels: Array, modality: str, rng: np.random.Generator) -> Array:
    """What the scanner makes of the true brightness: blur and noise, for MR also a coil's field and a scale.

    Args:
        pixels: ``W H S`` in the units of :func:`tissue_values`.
        modality: ``"CT"`` or ``"MR"``.
        rng: drawn from.
    """
    if modality == "CT":
        pixels = _blurred(pixels, int(rng.integers(1, 4)))
        noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(15, 60))
        hounsfield: Array = np.clip(np.round(_blurred(noise, 1) + pixels), -1024, 3071).astype(np.float32)
        return hounsfield
    pixels = _blurred(pixels, int(rng.integers(0, 4))) * _coil(pixels.shape, rng)
    sigma = np.float32(rng.uniform(0.01, 0.09))
    real, other = (rng.standard_normal(pixels.shape, np.float32) * sigma for _ in range(2))
    magnitude = np.sqrt((pixels + real) ** 2 + other**2)
    scaled: Array = (magnitude * np.float32(np.exp(rng.uniform(np.log(80), np.log(3000))))).astype(np.float32)
    return scaled


def _coil(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """A smooth bias field: exp of a random quadratic."""
    x, y = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape[:2])
    a = rng.normal(0, 0.32, 5).astype(np.float32)
    plane = a[0] * x[:, None] + a[1] * y[None] + a[2] * x[:, None] ** 2 + a[3] * y[None] ** 2 + a[4] * x[:, None] * y
    field: Array = np.exp(plane)[..., None].astype(np.float32)
    return field


def _blurred(pixels: Array, times: int) -> Array:
    """A binomial blur in the plane (first two axes), repeated."""
    for _ in range(times):
        for axis in (0, 1):
            moved = np.moveaxis(pixels, axis, 0)
            padded = np.concatenate([moved[:1], moved, moved[-1:]])
            smooth = (padded[:-2] + 2 * padded[1:-1] + padded[2:]).astype(np.float32) * np.float32(0.25)
            pixels = np.moveaxis(smooth, 0, axis)
    return np.ascontiguousarray(pixels, np.float32)


def _collimated(pixels: Array, rng: np.random.Generator) -> Array:
    """Black borders of random width, as the collimator leaves on some radiographs."""
    if rng.random() < 0.4:
        for axis in (0, 1):
            moved = np.moveaxis(pixels, axis, 0)
            low, high = (int(rng.integers(0, max(2, len(moved) // 9))) for _ in range(2))
            moved[:low], moved[len(moved) - high :] = 0, 0
    return pixels


assert tuple(APPEARANCE) == TISSUES, "one appearance per tissue, in the order of the labels"
