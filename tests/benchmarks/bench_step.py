# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The volume training step on the CPU beside the same step written plainly with MONAI, and the loader's speed.

``python -m tests.benchmarks.bench_step [--model resnet18 resnet50] [--rounds 5] [--threads 2] [--out TABLE.md]``

Step: one volume of 64 x 128 x 128, two views, forward, swapped prediction loss, backward, optimiser. Ours:
channels-last, bf16 autocast, one-channel stem, deformable aggregator, LARC. Plain: MONAI's ResNet in NCHW and fp32, the
image repeated to three channels, ``nn.TransformerEncoder`` over slices, Sinkhorn as written in papers, SGD. The steps
between the two say what is design and what is precision. All steps of one round run one after another; a ratio is the
median over rounds of (plain / this one). Peak memory is that of a fresh process (Linux) minus what it held before the
network was built.

``--allocator keep`` starts the whole benchmark again with an allocator that keeps freed memory (glibc: no mmap, no
trim), which spares every contestant the page faults of fresh pages. ``--clock cpu`` counts processor time instead of
the wall's, for a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import monai.networks.nets as monai_nets
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cluster.data import (
    ClusterImageDataset,
    JointDataset,
    JointLoader,
    VolumeDataset,
    image_preprocessing,
    load_datalist,
    volume_preprocessing,
)
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.losses import SwappedPredictionLoss
from monai_cluster.networks import ClusterHead, DeformableAggregator, JointClusterNet, Prototypes, SliceEncoder
from monai_cluster.networks.resnet_stages import stage_channels_of
from monai_cluster.optimizers import LARC
from monai_cluster.transforms import image_views, volume_views
from tests.benchmarks.bench_clustering import plain_sinkhorn
from tests.benchmarks.real_datalist import SHARED, write

KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}
Batch = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Sizes of one step; the bundle's GPU preset with a smaller network by default."""

    model: str = "resnet18"
    volumes: int = 1
    num_slices: int = 64
    size: int = 128
    dim: int = 640
    layers: int = 4
    heads: int = 8
    head_dim: int = 64
    ffn: int = 720
    prototypes: int = 64

    def batch(self, device: str = "cpu", seed: int = 0) -> Batch:
        """Two views of random volumes with everything that the joint loader gives."""
        generator = torch.Generator().manual_seed(seed)
        shape, rows = (self.volumes, 1, self.size, self.size, self.num_slices), (self.volumes, self.num_slices)
        index = torch.arange(self.num_slices).expand(rows)
        stream = {
            Keys.VIEWS: [torch.rand(shape, generator=generator) for _ in range(2)],
            Keys.PADDED: [torch.zeros(rows, dtype=torch.bool) for _ in range(2)],
            Keys.SLICE_POSITION: [2.5 * index.float() for _ in range(2)],
            Keys.SLICE_INDEX: [index.clone() for _ in range(2)],
        }
        return {name: [part.to(device) for part in parts] for name, parts in stream.items()}


class OurStep:
    """One volume step by the package."""

    def __init__(
        self,
        setting: Setting,
        device: str = "cpu",
        bf16: bool = True,
        channels_last: bool = True,
        checkpointing: bool = False,
        compiled: str = "",
        backend: str = "inductor",
    ) -> None:
        torch.manual_seed(0)
        chunk = 4 * setting.num_slices if checkpointing else None
        encoder = SliceEncoder(setting.model, 1, setting.dim, chunk_size=chunk, checkpointing=checkpointing)
        aggregator = DeformableAggregator(setting.dim, setting.layers, setting.heads, setting.head_dim, setting.ffn)
        head = ClusterHead(None, Prototypes(setting.dim, setting.prototypes), center=True)
        network = JointClusterNet(encoder, aggregator, volume_head=head, channels_last=channels_last)
        self.network = network.to(device).train()
        self.criterion = SwappedPredictionLoss(setting.prototypes, setting.dim).to(device)
        self.optimizer = LARC(self.network.parameters(), lr=0.01, weight_decay=1e-6)
        self.device, self.bf16 = device, bf16
        if compiled == "network":
            self.network.compile(backend=backend)
        elif compiled == "encoder":
            encoder.backbone.compile(backend=backend)

    def __call__(self, batch: Batch) -> Tensor:
        """Train once; the loss without gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss: Tensor = self.criterion(self.network(None, batch).volume)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class PlainNetwork(nn.Module):
    """The same design as one writes it with MONAI and torch at hand."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.backbone = getattr(monai_nets, setting.model)(
            pretrained=False,
            spatial_dims=2,
            n_input_channels=3,
            conv1_t_stride=2,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
        self.projection = nn.Linear(sum(stage_channels_of(setting.model)), setting.dim)
        layer = nn.TransformerEncoderLayer(setting.dim, setting.heads, setting.ffn, activation="gelu", batch_first=True)
        self.aggregator = nn.TransformerEncoder(layer, setting.layers, enable_nested_tensor=False)
        self.prototypes = nn.Linear(setting.dim, setting.prototypes, bias=False)

    def forward(self, views: list[Tensor]) -> Tensor:
        """Cosine scores ``V B K`` of views ``B 1 H W S``."""
        volumes = torch.cat(views)
        slices = volumes.permute(0, 4, 1, 2, 3).flatten(0, 1).repeat(1, 3, 1, 1)
        net = self.backbone
        maps = [net.maxpool(net.act(net.bn1(net.conv1(slices))))]
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            maps.append(layer(maps[-1]))
        levels = [F.normalize(stage.mean(dim=(2, 3)), dim=1) for stage in maps[1:]]
        tokens = self.aggregator(self.projection(torch.cat(levels, dim=1)).view(*volumes.shape[::4], -1))
        embedding = F.normalize(tokens.mean(dim=1), dim=1)
        scores: Tensor = F.linear(embedding, F.normalize(self.prototypes.weight, dim=1))
        return scores.view(len(views), -1, scores.shape[-1])


class PlainStep:
    """One volume step without the package."""

    def __init__(self, setting: Setting, device: str = "cpu", bf16: bool = False) -> None:
        torch.manual_seed(0)
        self.network = PlainNetwork(setting).to(device).train()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-6)
        self.device, self.bf16 = device, bf16

    def __call__(self, batch: Batch) -> Tensor:
        """Train once; the loss without gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            scores = self.network(batch[Keys.VIEWS]).float()
        with torch.no_grad():
            targets = [plain_sinkhorn(view) for view in scores]
        loss = -sum((targets[i] * F.log_softmax(scores[1 - i] / 0.1, dim=1)).sum(1).mean() for i in (0, 1)) / 2
        loss.backward()
        self.optimizer.step()
        return loss.detach()


STEPS: dict[str, Callable[[Setting], Callable[[Batch], Tensor]]] = {
    "ours: channels-last, bf16": lambda setting: OurStep(setting),
    "ours, fp32": lambda setting: OurStep(setting, bf16=False),
    "ours, fp32, NCHW": lambda setting: OurStep(setting, bf16=False, channels_last=False),
    "plain MONAI, bf16": lambda setting: PlainStep(setting, bf16=True),
    "plain MONAI: NCHW, fp32, 3 channels": lambda setting: PlainStep(setting),
}
OURS, PLAIN = "ours: channels-last, bf16", "plain MONAI: NCHW, fp32, 3 channels"


class AggregatorStep:
    """Forward and backward of the deformable aggregator alone, on as many volumes as the step has views."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        self.aggregator = DeformableAggregator(
            setting.dim, setting.layers, setting.heads, setting.head_dim, setting.ffn
        )
        rows = (2 * setting.volumes, setting.num_slices)
        self.slices = torch.randn(*rows, setting.dim, requires_grad=True)
        self.padded = torch.zeros(rows, dtype=torch.bool)
        self.position = 2.5 * torch.arange(setting.num_slices).expand(rows).float()

    def __call__(self) -> None:
        self.aggregator.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            volume = self.aggregator(self.slices, self.padded, self.position)[1]
        (volume * volume.detach().roll(1, 0)).sum().backward()


def peak_of(name: str, setting: Setting) -> float:
    """Megabytes that two steps need above the process' imports; to be asked in a fresh process."""
    before = _memory("VmRSS")
    step, batch = STEPS[name](setting), setting.batch()
    for _ in range(2):
        step(batch)
    return _memory("VmHWM") - before


def _memory(name: str) -> float:
    """Now held (VmRSS) or at most held (VmHWM) by this process; getrusage would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measure_peak(name: str, arguments: argparse.Namespace, setting: Setting) -> float:
    """:func:`peak_of` in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_step", "--peak-of", name, "--model", setting.model]
    command += ["--threads", str(arguments.threads), "--size", str(setting.size), "--slices", str(setting.num_slices)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def bench_step(setting: Setting, arguments: argparse.Namespace) -> str:
    """The table of one network."""
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    batch = setting.batch()
    steps = {name: build(setting) for name, build in STEPS.items()}
    alone = AggregatorStep(setting)
    times: dict[str, list[float]] = {name: [] for name in steps}
    shares: list[float] = []
    for turn in range(arguments.rounds + 1):
        for name, step in steps.items():
            start = clock()
            step(batch)
            if turn:
                times[name].append(clock() - start)
        start = clock()
        for _ in range(3):
            alone()
        if turn:
            shares.append((clock() - start) / 3 / times[OURS][-1])
    peaks = {name: measure_peak(name, arguments, setting) for name in (OURS, "ours, fp32", PLAIN)}
    lines = [
        f"{setting.model}, {setting.volumes} volume of {setting.num_slices} x {setting.size} x {setting.size}, two "
        f"views (medians of {arguments.rounds} rounds)\n",
        "| step | seconds | times faster than plain | peak memory, MB | of plain's |",
        "|---|---|---|---|---|",
    ]
    for name, found in times.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(times[PLAIN], found, strict=True))
        memory = f"{peaks[name]:.0f} | {peaks[name] / peaks[PLAIN]:.2f}" if name in peaks else "|"
        lines.append(f"| {name} | {statistics.median(found):.3f} | {ratio:.2f} | {memory} |")
    share = statistics.median(shares)
    lines.append(f"\nThe aggregator's forward and backward take {100 * share:.2f} % of our bf16 step (goal < 1.5 %).")
    return "\n".join(lines)


def loader_rows() -> Any:
    """Some rows of the real list, or phantoms where it is not there."""
    with tempfile.TemporaryDirectory() as folder:
        if SHARED.is_dir():
            write(Path(folder) / "real.json")
            rows = load_datalist(Path(folder) / "real.json")
            spread = replace(
                rows, images=rows.images[:: len(rows.images) // 32], volumes=rows.volumes[:: len(rows.volumes) // 12]
            )
            return _cached(spread)
        from monai_cluster.data.phantoms import write_phantoms

        return _cached(load_datalist(write_phantoms(folder, num_volumes_per_class=2, num_images_per_class=6)))


def _cached(rows: Any) -> tuple[ClusterImageDataset, VolumeDataset]:
    volume = volume_preprocessing(size=128, upright=True, max_slices=128, channel=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            ClusterImageDataset(rows, image_preprocessing(size=256, channel=0), cache_rate=1.0),
            VolumeDataset(rows, volume, cache_rate=1.0),
        )


def bench_loader(batches: int = 3) -> str:
    """Samples per second out of the joint loader, augmentation included, from a filled cache, without workers."""
    images, volumes = loader_rows()
    dataset = JointDataset(images, volumes, image_views(), volume_views(num_slices=64), slices_per_volume=8)
    loader = JointLoader(dataset, 16, 4, epoch_length=batches)
    lines = [f"Loader, no worker process, {len(images)} images and {len(volumes)} volumes in memory\n"]
    lines += ["| stream | per second | one sample is |", "|---|---|---|"]
    samples = {
        "images": (16, "2 crops of 224 and 6 of 96 pixels, each augmented"),
        "volumes": (4, "2 views of up to 64 x 128 x 128, one of seven augmentations each"),
    }
    for epoch, (stream, (size, what)) in enumerate(samples.items()):
        loader.set_streams((stream,))
        rates = []
        for repeat in range(4):
            loader.set_epoch(10 * epoch + repeat)
            start = time.perf_counter()
            count = sum(1 for _ in loader)
            rates.append(count * size / (time.perf_counter() - start))
        lines.append(f"| {stream} | {statistics.median(rates[1:]):.1f} | {what} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Volume step and loader on the CPU")
    parser.add_argument("--model", nargs="+", default=["resnet18"], help="resnet18, resnet50, ...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--allocator", choices=("system", "keep"), default="system")
    parser.add_argument("--no-loader", action="store_true")
    parser.add_argument("--peak-of", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="Markdown file")
    arguments = parser.parse_args()
    if arguments.allocator == "keep" and "MALLOC_MMAP_MAX_" not in os.environ:
        command = [sys.executable, "-m", "tests.benchmarks.bench_step", *sys.argv[1:]]
        os.execve(sys.executable, command, dict(os.environ) | KEEP)
    torch.set_num_threads(arguments.threads)
    settings = [Setting(model, num_slices=arguments.slices, size=arguments.size) for model in arguments.model]
    if arguments.peak_of:
        print(peak_of(arguments.peak_of, settings[0]))
        return
    how = f"{arguments.threads} threads, {arguments.clock} clock, {arguments.allocator} allocator"
    texts = [f"torch {torch.__version__}, {how}"]
    print(texts[0], end="\n\n", flush=True)
    parts: list[Callable[[], str]] = [lambda setting=setting: bench_step(setting, arguments) for setting in settings]
    for part in parts if arguments.no_loader else [*parts, bench_loader]:
        texts.append(part())
        print(texts[-1], end="\n\n", flush=True)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
