# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Reading and augmenting against the peers, paired and interleaved in one run, with a fixed number of threads.

``python -m tests.benchmarks.bench_reading [--quick] [--parts slices,volumes,crops] [--markdown FILE]``

A synthetic CT (512 x 512 x 200, int16) is written to a temporary folder, as ``.nii.gz``, ``.nii`` and into every
store. All sides run in turn in every round; a ratio is taken within its round, and the table has the median over the
rounds and their range. zarr, blosc2 and torchio take part where they are installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from monai.data import CacheDataset, MetaTensor, PersistentDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandSimulateLowResolutiond,
    RandSpatialCropd,
    Resized,
    Transform,
)
from PIL import Image
from scipy.ndimage import gaussian_filter

from monai_cluster.data import LoadSampled, SliceStore, VolumeDataset
from monai_cluster.transforms import MultiCropd, volume_augmentations

CROP = (96, 96, 96)
OPTIONAL = ("torchio", "zarr", "blosc2")
Draw = Callable[[int], Any]
Show = Callable[[str], None]


class Side(NamedTuple):
    """One way to do the work: its name, ``do(i)`` for the i-th time, how often per round, bytes on disk."""

    name: str
    do: Draw
    times: int
    num_bytes: int | None = None


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def compare(title: str, sides: Sequence[Side], rounds: int, unit: str, show: Show) -> None:
    """Run all sides in turn and show their throughput as ratios to the first's."""
    generator = np.random.default_rng(0)
    for side in sides:
        side.do(0)
    ratios: dict[str, list[float]] = {side.name: [] for side in sides}
    reference: list[float] = []
    for _ in range(rounds):
        seconds: dict[str, float] = {}
        for side in sides:
            places = [int(place) for place in generator.integers(0, 2**31, side.times)]
            start = time.perf_counter()
            for place in places:
                side.do(place)
            seconds[side.name] = (time.perf_counter() - start) / side.times
        reference.append(seconds[sides[0].name])
        for name, taken in seconds.items():
            ratios[name].append(seconds[sides[0].name] / taken)
    first, disk = f"{1 / statistics.median(reference):.3g} {unit}/s", any(side.num_bytes for side in sides)
    show(f"\n{title}; the first line is {first}, {rounds} rounds\n")
    show("| | ratio | range |" + (" MB on disk |" if disk else ""))
    show("|---|---|---|" + ("---|" if disk else ""))
    for side in sides:
        values = ratios[side.name]
        line = f"| {side.name} | {number(statistics.median(values))} | {number(min(values))} to {number(max(values))} |"
        show(line + ((f" {number(side.num_bytes / 1e6)} |" if side.num_bytes else " |") if disk else ""))


def number(value: float) -> str:
    """Three digits, without powers of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def synthetic_ct(shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Air, a body with soft structures, bones, and the noise of a scanner, in HU."""
    generator = np.random.default_rng(0)
    height, width, slices = shape
    coarse = generator.normal(size=(height // 8, width // 8, max(1, slices // 4))).astype(np.float32)
    soft = gaussian_filter(coarse, 1.5)
    soft = np.repeat(np.repeat(np.repeat(soft, 8, 0), 8, 1), 5, 2)[:, :, :slices] / soft.std()
    y, x = np.ogrid[:height, :width]
    body = ((y / height - 0.5) / 0.35) ** 2 + ((x / width - 0.5) / 0.42) ** 2 < 1
    values = np.where(soft > 2, 600, 40 + 60 * soft) + generator.normal(size=shape).astype(np.float32) * 12
    return np.where(body[..., None], values, -1000 + np.abs(values - values.mean()) * 0.02).astype(np.int16)


def write_volume(folder: Path, shape: tuple[int, int, int]) -> tuple[Path, Path]:
    image = nib.Nifti1Image(synthetic_ct(shape), np.diag([0.7, 0.7, 1.25, 1.0]))
    paths = folder / "ct.nii.gz", folder / "ct.nii"
    for path in paths:
        nib.save(image, path)
        os.utime(path, (time.time() - 60, time.time() - 60))
    return paths


def float_slice(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).astype(np.float32))[None]


def library_sides(folder: Path, values: np.ndarray[Any, Any], many: int) -> list[Side]:
    """Stores by slice of other libraries, where these are installed."""
    sides, slices = [], len(values)
    np.save(folder / "slices.npy", values)
    mapped = np.load(folder / "slices.npy", mmap_mode="r")
    sides.append(
        Side(
            "numpy memory map, slices first, held open", lambda i: float_slice(mapped[i % slices]), many, values.nbytes
        )
    )
    if installed("zarr"):
        import zarr

        chunks = (1, *values.shape[1:])
        array = zarr.create_array(store=folder / "ct.zarr", shape=values.shape, chunks=chunks, dtype=values.dtype)
        array[:] = values
        size = sum(path.stat().st_size for path in (folder / "ct.zarr").rglob("*") if path.is_file())
        opened = zarr.open_array(folder / "ct.zarr", mode="r")
        sides.append(Side("zarr by slice (zstd)", lambda i: float_slice(opened[i % slices]), max(1, many // 10), size))
    if installed("blosc2"):
        import blosc2

        path = str(folder / "ct.b2nd")
        options = {"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1}
        blosc2.asarray(values, chunks=(1, *values.shape[1:]), cparams=options, urlpath=path)
        packed = blosc2.open(path, mmap_mode="r", dparams={"nthreads": 1})
        size = os.path.getsize(path)
        sides.append(
            Side("blosc2 by slice (zstd), held open", lambda i: float_slice(packed[i % slices]), many // 4, size)
        )
    return sides


def peer_sides(folder: Path, packed: Path, plain: Path) -> list[Side]:
    """MONAI, nibabel and torchio, each as its documentation reads volumes; a slice is taken of what they give."""
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    rows = [{"image": str(packed)}]
    slices = nib.load(plain).shape[2]
    persistent = PersistentDataset(rows, load, cache_dir=folder / "persistent")
    persistent[0]
    kept = sum(path.stat().st_size for path in (folder / "persistent").iterdir())
    cached = CacheDataset(rows, load, progress=False)
    gz, nii = packed.stat().st_size, plain.stat().st_size

    def take(sample: Any, place: int) -> torch.Tensor:
        image: torch.Tensor = sample["image"][..., place % slices].contiguous()
        return image

    def nibabel(path: Path) -> Draw:
        return lambda i: float_slice(nib.load(path).dataobj[..., i % slices])

    opened = nib.load(plain)
    sides = [
        Side("`LoadImaged` on .nii.gz", lambda i: take(load(rows[0]), i), 1, gz),
        Side("nibabel on .nii.gz", nibabel(packed), 1, gz),
        Side("`PersistentDataset`", lambda i: take(persistent[0], i), 2, kept),
        Side("`CacheDataset`", lambda i: take(cached[0], i), 3),
        Side("nibabel on .nii, opened each time", nibabel(plain), 30, nii),
        Side("nibabel memory map on .nii, held open", lambda i: float_slice(opened.dataobj[..., i % slices]), 30, nii),
    ]
    if installed("torchio"):
        import torchio

        subjects = torchio.SubjectsDataset([torchio.Subject(image=torchio.ScalarImage(packed))])
        sides.append(
            Side("torchio on .nii.gz", lambda i: subjects[0]["image"].data[..., i % slices].contiguous().float(), 1, gz)
        )
    return sides


def our_sides(folder: Path, packed: Path, many: int) -> list[Side]:
    """The slice store: values alone, the whole sample with one slice, a 3D crop; plain and compressed."""
    sides = []
    for compressed in (False, True):
        if compressed and not installed("blosc2"):
            continue
        name = "slice store, compressed" if compressed else "slice store"
        store = SliceStore(folder / f"store{compressed}", compressed=compressed)
        rows = [{"image": str(packed), "sample_index": 0}]
        dataset = VolumeDataset(rows, LoadSampled("image", "volume"), store=store)
        assert dataset.stored is not None
        entry = store.get(dataset.stored.keys[0])
        assert entry is not None
        coded = entry.coded("image")
        assert coded is not None
        height, width, slices = coded["shape"][1:]

        def values(i: int, entry: Any = entry, coded: Any = coded, slices: int = slices) -> Any:
            return entry.slice(coded, i % slices)

        def sample(i: int, dataset: VolumeDataset = dataset) -> Any:
            return dataset.with_slice(0, lambda count: i % count)

        def crop(i: int, dataset: VolumeDataset = dataset, shape: Any = (height, width, slices)) -> Any:
            size = [min(side, length) for side, length in zip(CROP, shape, strict=True)]
            start = [i % (length - side + 1) for side, length in zip(size, shape, strict=True)]
            return dataset.crop(0, start, size)

        times, size = many // (4 if compressed else 1), store.num_bytes()
        sides += [
            Side(f"{name}, values", values, times, size),
            Side(f"{name}, `VolumeDataset` sample", sample, times, size),
        ]
        sides.append(Side(f"{name}, crop of {' x '.join(map(str, CROP))}", crop, max(2, many // 100), size))
    return sides


def bench_slices(folder: Path, shape: tuple[int, int, int], rounds: int, many: int, show: Show) -> None:
    packed, plain = write_volume(folder, shape)
    values = np.ascontiguousarray(np.moveaxis(np.asarray(nib.load(plain).dataobj), -1, 0))
    sides = [*peer_sides(folder, packed, plain), *library_sides(folder, values, many), *our_sides(folder, packed, many)]
    name = " x ".join(map(str, shape))
    compare(f"**Random slices** of a {name} int16 CT, float32 tensors, warm page cache", sides, rounds, "slices", show)


def torchio_augmentations() -> list[Any]:
    import torchio

    return [
        torchio.RandomFlip(axes=(0, 1), flip_probability=1),
        torchio.RandomAffine(scales=(0.9, 1.1, 0.9, 1.1, 1, 1), degrees=(0, 0, 0, 0, -15, 15), translation=5),
        torchio.RandomAnisotropy(axes=(0, 1)),
        torchio.RandomNoise(std=0.1),
        torchio.RandomBlur(std=(0.25, 1.5)),
        torchio.RandomBiasField(coefficients=0.2),
        torchio.RandomGamma(log_gamma=(-0.5, 0.5)),
    ]


def monai_augmentations() -> list[Transform]:
    turn, key = 0.26, "image"
    return [
        RandFlipd(key, prob=1.0, spatial_axis=0),
        RandAffined(
            key, prob=1.0, rotate_range=(0, 0, turn), scale_range=(0.1, 0.1, 0), translate_range=5, padding_mode="zeros"
        ),
        RandSimulateLowResolutiond(key, prob=1.0),
        RandGaussianNoised(key, prob=1.0, std=0.1),
        RandGaussianSmoothd(key, (0.25, 1.5), (0.25, 1.5), (0.25, 1.0), prob=1.0),
        RandBiasFieldd(key, prob=1.0, degree=3, coeff_range=(-0.2, 0.2)),
        RandAdjustContrastd(key, prob=1.0, gamma=(0.6, 1.7)),
    ]


def bench_volumes(rounds: int, show: Show) -> None:
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(1, 128, 128, 64, generator=generator)
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64))

    def seven(transforms: Sequence[Any]) -> Draw:
        return lambda i: [transform({"image": MetaTensor(volume, affine=affine)}) for transform in transforms]

    sides = [Side("MONAI dictionary transforms", seven(monai_augmentations()), 1)]
    if installed("torchio"):
        import torchio

        subject = torchio.Subject(image=torchio.ScalarImage(tensor=volume, affine=affine.numpy()))
        transforms = torchio_augmentations()
        sides.append(Side("torchio", lambda i: [transform(subject) for transform in transforms], 1))
    sides += [
        Side("ours, also through the plane", seven(volume_augmentations(through_plane=True)), 1),
        Side("ours, in the plane (the default with matched slices)", seven(volume_augmentations()), 1),
    ]
    title = "**3D augmentation**: the seven of which each of a volume's two views draws one, 1 x 128 x 128 x 64"
    compare(f"{title}, float32", sides, rounds, "rounds of seven", show)


def pil_crops(picture: Image.Image, generator: np.random.Generator) -> list[Any]:
    crops = []
    for size, low, high in (*[(224, 0.14, 1.0)] * 2, *[(96, 0.05, 0.14)] * 6):
        side = round(picture.width * float(generator.uniform(low, high)) ** 0.5)
        left, top = (int(place) for place in generator.integers(0, picture.width - side + 1, 2))
        box = (left, top, left + side, top + side)
        crops.append(torch.from_numpy(np.array(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))))
    return crops


def monai_crops(side: int, smooth: bool) -> Transform:
    """Two large and six small square crops of random size, each resized, in MONAI's dictionary transforms."""

    def crop(size: int, low: float, high: float) -> Compose:
        small, large = int(side * low**0.5), int(side * high**0.5)
        steps = [
            RandSpatialCropd("image", small, max_roi_size=large, random_size=True),
            Resized("image", (size, size), mode="bilinear", anti_aliasing=smooth),
        ]
        return Compose(steps)

    crops = [*(crop(224, 0.14, 1.0) for _ in range(2)), *(crop(96, 0.05, 0.14) for _ in range(6))]

    class Crops(Transform):
        def __call__(self, data: Any) -> Any:
            return [one(dict(data))["image"] for one in crops]

    return Crops()


def bench_crops(rounds: int, show: Show) -> None:
    values = torch.rand(1, 512, 512, generator=torch.Generator().manual_seed(0))
    picture, generator = Image.fromarray(values[0].numpy()), np.random.default_rng(0)
    grey = Image.fromarray((values[0].numpy() * 255).astype(np.uint8))
    ours, monai, rough = MultiCropd("image"), monai_crops(512, True), monai_crops(512, False)
    sides = [
        Side("MONAI dictionary transforms", lambda i: monai({"image": MetaTensor(values)}), 3),
        Side("MONAI dictionary transforms, not antialiased", lambda i: rough({"image": MetaTensor(values)}), 5),
        Side("PIL, float", lambda i: pil_crops(picture, generator), 10),
        Side("PIL, 8-bit grey", lambda i: pil_crops(grey, generator), 10),
        Side("ours, `MultiCropd`", lambda i: ours({"image": MetaTensor(values)}), 10),
    ]
    title = "**2D multi-crop**: 2 x 224 and 6 x 96 of a 512 x 512 slice, antialiased, without intensity augmentation"
    compare(title, sides, rounds, "images", show)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a volume of 128 x 128 x 40 and three rounds")
    parser.add_argument("--rounds", type=int, default=0, help="7 by default, 3 with --quick")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", default="slices,volumes,crops")
    parser.add_argument("--markdown", default="", help="also append the tables to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    warnings.simplefilter("ignore")
    rounds = options.rounds or (3 if options.quick else 7)

    def show(line: str) -> None:
        print(line, flush=True)
        if options.markdown:
            with open(options.markdown, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "monai", *filter(installed, OPTIONAL))
    ]
    left_out = [name for name in OPTIONAL if not installed(name)]
    show(f"{options.threads} thread(s), {', '.join(versions)}, load {os.getloadavg()[0]:.1f}")
    if left_out:
        show(f"Left out, since not installed: {', '.join(left_out)}.")
    parts = options.parts.split(",")
    if "slices" in parts:
        shape = (128, 128, 40) if options.quick else (512, 512, 200)
        with tempfile.TemporaryDirectory() as folder:
            bench_slices(Path(folder), shape, rounds, 100 if options.quick else 400, show)
    if "volumes" in parts:
        bench_volumes(rounds, show)
    if "crops" in parts:
        bench_crops(3 * rounds, show)


if __name__ == "__main__":
    main()
