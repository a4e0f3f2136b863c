# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Bodies drawn from ellipsoids: the geometry of the phantoms, in millimetres.

Coordinates are x to the patient's right, y to the front, z to the head, with the region's centre at the origin. A body
is a list of parts that are painted one over the other, so that later parts lie inside earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["REGIONS", "Part", "Region", "paint"]

Array = npt.NDArray[np.float32]

# Order is the label value in the painted volume.
TISSUES = (
    "air", "fat", "muscle", "bone", "marrow", "lung", "fluid", "grey", "white", "liver", "spleen", "kidney", "blood",
    "myocardium", "gut", "gas", "cartilage",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One ellipsoid, tube or set of ribs of a single tissue.

    Attributes:
        tissue: one of ``TISSUES``.
        centre: x, y, z in mm.
        radii: half axes in mm; an infinite z radius makes a tube.
        lean: shift of the centre in x and y per mm of z, for oblique bones and vessels.
        hollow: inner share of the radii that is left as it was; 0 is solid.
        bands: length in mm of stripes along z and front-down slope in mm/mm (ribs), or None.
    """

    tissue: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    lean: tuple[float, float] = (0.0, 0.0)
    hollow: float = 0.0
    bands: tuple[float, float] | None = None


@dataclass(frozen=True)
class Region:
    """A part of the body.

    Attributes:
        extent: half size of its box in mm, x, y, z.
        build: makes a subject's parts.
    """

    extent: tuple[float, float, float]
    build: Callable[[np.random.Generator], list[Part]]


def paint(parts: list[Part], x: Array, y: Array, z: Array) -> npt.NDArray[np.uint8]:
    """Tissue numbers at all combinations of in-plane points and heights.

    Args:
        parts: of one body, painted in order.
        x: in-plane positions in mm, any shape that broadcasts with ``z`` (such as ``W H 1``).
        y: the same.
        z: heights in mm, ascending along the last axis (``1 1 S``).
    """
    labels = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.uint8)
    for part in parts:
        (cx, cy, cz), (rx, ry, rz) = part.centre, part.radii
        reached = np.flatnonzero(np.abs(z.ravel() - cz) <= rz)  # most parts end well inside the picture
        if not len(reached):
            continue
        slab = slice(int(reached[0]), int(reached[-1]) + 1)
        height = z[..., slab] - np.float32(cz)
        square = (x - np.float32(cx) - np.float32(part.lean[0]) * height) ** 2 * np.float32(rx**-2)
        square = square + (y - np.float32(cy) - np.float32(part.lean[1]) * height) ** 2 * np.float32(ry**-2)
        square = square + (height * np.float32(1 / rz)) ** 2
        inside = square <= 1
        if part.hollow:
            inside &= square > np.float32(part.hollow**2)
        if part.bands is not None:
            length, slope = part.bands
            inside &= np.mod(height + np.float32(slope) * (y - np.float32(cy)), np.float32(length)) < 0.42 * length
        labels[..., slab][inside] = TISSUES.index(part.tissue)
    return labels


def _near(rng: np.random.Generator, *values: float, spread: float = 0.08) -> tuple[float, ...]:
    """Values of this subject: lognormal about the typical ones."""
    return tuple(float(value * np.exp(rng.normal(0, spread))) for value in values)


def _sides(
    tissue: str,
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    lean: tuple[float, float] = (0.0, 0.0),
    hollow: float = 0.0,
) -> list[Part]:
    """The same organ on the right and, mirrored, on the left."""
    (x, y, z), (lx, ly) = centre, lean
    return [Part(tissue, (side * x, y, z), radii, (side * lx, ly), hollow) for side in (1, -1)]


def _trunk(rng: np.random.Generator, width: float, depth: float) -> tuple[list[Part], float, float]:
    """Skin, fat and muscle wall as an endless tube; returns also the inner half axes."""
    width, depth = _near(rng, width, depth, spread=0.1)
    fat = rng.uniform(6, 26)
    wall = [
        Part("fat", (0, 0, 0), (width, depth, np.inf)),
        Part("muscle", (0, 0, 0), (width - fat, depth - fat, np.inf)),
    ]
    return wall, width - fat, depth - fat


def _spine(y: float, size: float) -> list[Part]:
    """Vertebral bodies with discs, canal and spinous processes."""
    return [
        Part("cartilage", (0, y, 0), (size, 0.75 * size, np.inf)),
        Part("bone", (0, y, 0), (size, 0.75 * size, np.inf), bands=(1.7 * size, 0.0), hollow=0.75),
        Part("marrow", (0, y, 0), (0.75 * size, 0.56 * size, np.inf), bands=(1.7 * size, 0.0)),
        Part("bone", (0, y - 1.15 * size, 0), (0.65 * size, 0.5 * size, np.inf)),
        Part("fluid", (0, y - 1.05 * size, 0), (0.42 * size, 0.35 * size, np.inf)),
        Part("bone", (0, y - 1.95 * size, 0), (0.2 * size, 0.6 * size, np.inf), bands=(1.7 * size, 0.0)),
    ]


def head(rng: np.random.Generator) -> list[Part]:
    """Skull, cortex with folds of fluid, white matter, ventricles, eyes and sinuses."""
    a, b, c = _near(rng, 74, 92, 84)
    v = rng.uniform(0.8, 1.7)  # size of the ventricles grows with age
    parts = [
        Part("fat", (0, 0, 0), (a, b, c)),
        Part("bone", (0, 0, 0), (a - 5, b - 5, c - 5)),
        Part("fluid", (0, 0, 0), (a - 12, b - 12, c - 12)),
        Part("grey", (0, 0, 0), (a - 15, b - 15, c - 15)),
    ]
    for side in (1, -1):
        parts += [Part("white", (side * 0.36 * a, 0, 4), (0.33 * a, 0.62 * b, 0.55 * c))]
        parts += [Part("fluid", (side * 11 * v**0.5, 12, 14), (6 * v, 26, 14), (0.15 * side, 0))]
        parts += [Part("fluid", (side * 17 * v**0.5, -24, 8), (6 * v, 17, 12))]
        parts += [Part("grey", (side * 15, 0, 0), (8, 15, 9))]
        parts += [Part("fat", (side * 32, 0.8 * b, -34), (19, 22, 18))]
        parts += [Part("fluid", (side * 32, 0.84 * b, -34), (12, 12, 12))]
    for angle in np.linspace(0, 2 * np.pi, 14, endpoint=False) + rng.uniform(0, 0.4):  # sulci
        x, y = float(np.sin(angle)), float(np.cos(angle))
        parts += [Part("fluid", (x * (a - 20), y * (b - 20), 0), (2 + 6 * abs(y), 2 + 6 * abs(x), 0.62 * c))]
    return [
        *parts,
        Part("fluid", (0, 0, 40), (2, b - 18, 40)),
        Part("gas", (0, 0.86 * b, -52), (13, 14, 20)),
        Part("grey", (0, -46, -46), (42, 24, 20)),
        Part("white", (0, -18, -58), (13, 12, 40)),
    ]


def chest(rng: np.random.Generator) -> list[Part]:
    """Two lungs with vessels, mediastinum, heart, aorta, ribs, sternum and spine."""
    wall, w, d = _trunk(rng, 168, 112)
    lung = _near(rng, 0.40 * w, 0.74 * d, 150)
    cage = Part("bone", (0, 0, 0), (w - 4, d - 4, np.inf), hollow=0.93, bands=(24, 0.45))
    parts = [*wall, cage]
    parts += _sides("lung", (0.47 * w, 2, -10), (lung[0], lung[1], lung[2]))
    for side in (1, -1):
        for _ in range(6):  # vessels
            place = (side * rng.uniform(0.25, 0.65) * w, rng.uniform(-0.4, 0.4) * d, rng.uniform(-70, 70))
            parts.append(Part("blood", place, (4, 4, 26), (side * rng.uniform(0, 1.2), rng.uniform(-0.6, 0.6))))
    h = _near(rng, 52, 46, 50)
    return [
        *parts,
        Part("muscle", (0, 0, 40), (26, 0.55 * d, 80)),
        Part("myocardium", (-22, 22, -42), (h[0], h[1], h[2])),
        Part("blood", (-30, 20, -42), (0.55 * h[0], 0.5 * h[1], 0.6 * h[2])),
        Part("blood", (-12, -26, 0), (13, 13, np.inf)),
        Part("blood", (-4, 14, 36), (16, 16, 34)),
        Part("gas", (2, -4, 70), (9, 9, 60)),
        Part("liver", (58, 4, -128), (86, 70, 52)),
        Part("bone", (0, d - 12, 20), (18, 7, 90)),
        *_spine(-0.6 * d, 20),
    ]


def abdomen(rng: np.random.Generator) -> list[Part]:
    """Liver, spleen, kidneys, stomach with gas, bowel, aorta, vena cava and spine."""
    wall, w, d = _trunk(rng, 165, 112)
    liver = _near(rng, 0.56 * w, 0.68 * d, 80)
    kidney = _near(rng, 27, 24, 54)
    parts = [
        *wall,
        Part("fat", (0, 6, 0), (w - 14, d - 14, np.inf)),
        Part("liver", (0.42 * w, 8, 40), (liver[0], liver[1], liver[2])),
        Part("liver", (0, 0.4 * d, 44), (0.4 * w, 0.3 * d, 40)),
        Part("spleen", (-0.68 * w, -0.32 * d, 42), _near(rng, 26, 38, 46)),  # type: ignore[arg-type]
        Part("gut", (-0.4 * w, 0.28 * d, 42), (44, 34, 40)),
        Part("gas", (-0.4 * w, 0.42 * d, 42), (30, 18, 26)),
    ]
    for _ in range(9):  # bowel loops below the liver
        place = (rng.uniform(-0.62, 0.62) * w, rng.uniform(0.0, 0.55) * d, rng.uniform(-130, -30))
        size = rng.uniform(13, 22)
        parts.append(Part("gut", place, (size, size, 2.2 * size), (rng.uniform(-0.6, 0.6), 0.0)))
        parts.append(Part("gas" if rng.random() < 0.4 else "fluid", place, (0.6 * size, 0.6 * size, 1.5 * size)))
    parts += _sides("kidney", (0.45 * w, -0.42 * d, -18), (kidney[0], kidney[1], kidney[2]), (0.18, 0.0))
    parts += _sides("fat", (0.45 * w - 6, -0.40 * d, -18), (0.4 * kidney[0], 0.34 * kidney[1], 0.5 * kidney[2]))
    parts += _sides("muscle", (44, -0.58 * d, -60), (22, 24, 90), (0.12, 0.0))
    return [
        *parts,
        Part("blood", (-10, -0.26 * d, 0), (11, 11, np.inf)),
        Part("blood", (15, -0.26 * d, 0), (12, 9, np.inf)),
        *_spine(-0.55 * d, 24),
    ]


def pelvis(rng: np.random.Generator) -> list[Part]:
    """Iliac wings, sacrum, femoral heads, bladder, rectum and gluteal muscles."""
    wall, w, d = _trunk(rng, 172, 108)
    bladder = _near(rng, 42, 34, 36, spread=0.25)
    parts = [*wall, Part("fat", (0, 12, 20), (0.62 * w, 0.62 * d, 95))]
    parts += _sides("fat", (0.42 * w, -0.5 * d, -20), (5, 50, np.inf), (0.0, 0.0))
    parts += _sides("bone", (0.58 * w, -6, 66), (15, 0.52 * d, 70), (0.35, 0.0))
    parts += _sides("marrow", (0.58 * w, -6, 66), (9, 0.44 * d, 62), (0.35, 0.0))
    parts += _sides("bone", (0.56 * w, 0, -36), (36, 34, 38))
    parts += _sides("cartilage", (0.56 * w, 0, -38), (29, 28, 30))
    parts += _sides("marrow", (0.56 * w, 0, -38), (25, 25, 26))
    parts += _sides("bone", (0.74 * w, -6, -92), (20, 20, 62), (-0.1, 0.0))
    parts += _sides("marrow", (0.74 * w, -6, -92), (12, 12, 58), (-0.1, 0.0))
    parts += _sides("blood", (0.32 * w, 0.48 * d, 0), (7, 7, np.inf), (-0.15, 0.0))
    return [
        *parts,
        Part("gut", (0, -0.34 * d, -20), (22, 20, 95)),
        Part("gas", (0, -0.32 * d, -20), (11, 9, 60)),
        Part("gut", (0, -8, -26), (34, 20, 24)),
        Part("fluid", (0, 0.3 * d, -30), (bladder[0], bladder[1], bladder[2])),
        Part("bone", (0, 0.55 * d, -74), (44, 11, 20)),
        Part("bone", (0, -0.62 * d, 60), (46, 20, 62), (0.0, -0.2)),
        Part("marrow", (0, -0.62 * d, 60), (38, 13, 54), (0.0, -0.2)),
    ]


def knee(rng: np.random.Generator) -> list[Part]:
    """Femur, tibia and fibula with marrow, condyles, cartilage, patella and muscles of one leg."""
    w, d, shaft = _near(rng, 66, 68, 17)
    condyle = _near(rng, 26, 32, 32)
    side = rng.choice((1.0, -1.0))
    parts = [Part("fat", (0, 0, 0), (w, d, np.inf)), Part("muscle", (0, -8, 0), (w - 9, d - 16, np.inf))]
    parts += _sides("fat", (26, -34, 0), (3, 26, np.inf), (0.05, 0.0))
    parts += [Part("fat", (0, 8, 0), (0.78 * w, 0.72 * d, 42))]
    for tissue, less in (("bone", 0.0), ("marrow", 5.0)):
        parts += [Part(tissue, (0, 6, 110), (shaft - less, shaft - less, 110 - less))]
        parts += [Part(tissue, (0, 4, -110), (shaft - less, shaft - less, 108 - less))]
        parts += _sides(tissue, (0.36 * w, 0, 36), (condyle[0] - less, condyle[1] - less, condyle[2] - less))
        parts += [Part(tissue, (0, 2, -28), (0.72 * w - less, 0.48 * d - less, 24 - less))]
        parts += [Part(tissue, (side * 34, -22, -100), (9 - less / 2, 9 - less / 2, 82))]
    parts += _sides("cartilage", (0.36 * w, 0, 2), (23, 27, 4))
    return [
        *parts,
        Part("bone", (0, 0.72 * d, 34), (22, 9, 24)),
        Part("marrow", (0, 0.72 * d, 34), (17, 5, 19)),
        Part("fluid", (0, 0.5 * d, 60), (22, 6, 26)),
        Part("blood", (4, -0.5 * d, 0), (6, 6, np.inf), (0.03, 0.0)),
    ]


def heart(rng: np.random.Generator) -> list[Part]:
    """Short axis: a ring of left ventricle, the right ventricle's crescent, chest wall, lung and liver around."""
    r = _near(rng, 32, 32, 52, spread=0.12)
    thick = rng.uniform(0.58, 0.76)  # inner share of the left ventricle's radius
    wall, w, d = _trunk(rng, 150, 112)
    parts = [*wall, Part("bone", (0, 0, 0), (w - 4, d - 4, np.inf), hollow=0.93, bands=(24, 0.45))]
    parts += [Part("lung", (0, 0, 0), (w - 16, d - 16, np.inf))]
    parts += [Part("fat", (6, 6, 0), (78, 60, 78))]
    parts += [Part("liver", (34, -26, -62), (86, 74, 46))]
    parts += [
        Part("myocardium", (22, 12, 0), (1.42 * r[0], 1.2 * r[1], r[2]), (0.1, 0.0)),
        Part("blood", (24, 13, 4), (1.26 * r[0], 1.05 * r[1], 0.94 * r[2]), (0.1, 0.0)),
        Part("myocardium", (-8, 2, 0), (1.18 * r[0], 1.18 * r[1], 1.1 * r[2]), (0.1, 0.0)),
        Part("blood", (-8, 2, 6), (1.18 * thick * r[0], 1.18 * thick * r[1], r[2]), (0.1, 0.0)),
    ]
    for angle in (0.6, 3.4):  # papillary muscles
        dx, dy = 0.5 * r[0] * float(np.cos(angle)), 0.5 * r[1] * float(np.sin(angle))
        parts.append(Part("myocardium", (-8 + dx, 2 + dy, -4), (7, 6, 26), (0.1, 0.0)))
    return [*parts, Part("blood", (-26, -62, 0), (13, 13, np.inf)), *_spine(-0.72 * d, 20)]


REGIONS: dict[str, Region] = {
    "head": Region((92, 108, 84), head),
    "chest": Region((190, 130, 130), chest),
    "abdomen": Region((186, 130, 110), abdomen),
    "pelvis": Region((192, 126, 110), pelvis),
    "knee": Region((84, 84, 110), knee),
    "heart": Region((110, 92, 48), heart),
}
