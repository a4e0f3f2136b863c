# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What only a GPU can show: the bf16 joint step of ResNet-50 at 64 x 128 x 128 with two views.

``python -m tests.benchmarks.gpu_step [--volumes 4] [--out TABLE.md]`` on a machine with a CUDA device (elsewhere it
says so and ends well). Three parts, each of which may fail without stopping the others:

1. time and peak memory of one volume step with and without ``torch.compile``, activation checkpointing (in chunks of
   four volumes' slices, without which it saves nothing) and channels-last, beside the plain MONAI step of
   ``bench_step`` (NCHW, fp32, three channels, full attention);
2. 100 training steps of the whole trainer, images and volumes and masked slices, on synthetic anatomy: every loss
   finite, the total falling;
3. the most volumes that one step can take.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.engines import ClusterTrainer
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.losses import MaskedSliceLoss, SwappedPredictionLoss
from monai_cluster.networks import (
    ClusterHead,
    DeformableAggregator,
    JointClusterNet,
    MaskedSliceDecoder,
    ProjectionHead,
    Prototypes,
    SliceEncoder,
)
from tests.benchmarks.bench_step import Batch, OurStep, PlainStep, Setting

FULL = Setting("resnet50", volumes=4)
TINY = Setting("resnet18", 2, 8, 32, 64, 2, 4, 16, 96, 16)
Step = Callable[[Batch], Tensor]


def steps_of(setting: Setting, device: str) -> dict[str, Callable[[], Step]]:
    """Every way to run the step, the one that we recommend first, the plain one last."""
    backend = "inductor" if device == "cuda" else "aot_eager"  # a trial on the CPU shall not wait for a compiler
    return {
        "ours: bf16, channels-last": lambda: OurStep(setting, device),
        "ours, torch.compile of the encoder": lambda: OurStep(setting, device, compiled="encoder", backend=backend),
        "ours, torch.compile of the network": lambda: OurStep(setting, device, compiled="network", backend=backend),
        "ours, checkpointing": lambda: OurStep(setting, device, checkpointing=True),
        "ours, NCHW": lambda: OurStep(setting, device, channels_last=False),
        "ours, fp32": lambda: OurStep(setting, device, bf16=False),
        "plain MONAI, bf16": lambda: PlainStep(setting, device, bf16=True),
        "plain MONAI: NCHW, fp32, 3 channels, full attention": lambda: PlainStep(setting, device),
    }


def synchronize(device: str) -> None:
    """Wait for the GPU, where there is one."""
    if device == "cuda":
        torch.cuda.synchronize()


def clean(device: str) -> None:
    """Give memory back and start counting its peak anew."""
    gc.collect()
    torch.compiler.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> float:
    """Peak gigabytes since :func:`clean`; NaN without a GPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else math.nan


def timed(build: Callable[[], Step], batch: Batch, device: str, warm_up: int, calls: int) -> tuple[float, float]:
    """Median seconds of a step and peak gigabytes."""
    clean(device)
    step = build()
    for _ in range(warm_up):
        step(batch)
    times = []
    for _ in range(calls):
        synchronize(device)
        start = time.perf_counter()
        loss = step(batch)
        synchronize(device)
        times.append(time.perf_counter() - start)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} after {warm_up + calls} steps")
    return statistics.median(times), peak(device)


def bench_variants(setting: Setting, device: str, warm_up: int, calls: int) -> str:
    """Part 1."""
    batch = setting.batch(device)
    found: dict[str, tuple[float, float] | str] = {}
    for name, build in steps_of(setting, device).items():
        try:
            found[name] = timed(build, batch, device, warm_up, calls)
        except Exception as error:  # out of memory or a compiler's failure is a result, too
            found[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
        print(f"  {name}: {found[name]}", file=sys.stderr, flush=True)
    plain = found[list(found)[-1]]
    lines = [
        f"{setting.model}, {setting.volumes} volumes of {setting.num_slices} x {setting.size} x {setting.size}, two "
        f"views, medians of {calls} steps after {warm_up}; TF32 in convolutions "
        f"{'on' if torch.backends.cudnn.allow_tf32 else 'off'} (torch's default) for fp32 rows\n",
        "| step | volumes/s | ms | times faster than plain | peak memory, GB | of plain's |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        if isinstance(result, str):
            lines.append(f"| {name} | {result} | | | | |")
            continue
        seconds, memory = result
        ratios = [f"{plain[0] / seconds:.2f}", f"{memory / plain[1]:.2f}"] if isinstance(plain, tuple) else ["", ""]
        rate = f"{setting.volumes / seconds:.2f} | {1e3 * seconds:.1f}"
        lines.append(f"| {name} | {rate} | {ratios[0]} | {memory:.2f} | {ratios[1]} |")
    return "\n".join(lines)


# --- 100 steps --------------------------------------------------------------------------------------------------------


class SyntheticAnatomy:
    """Joint batches of smooth random volumes: two views differ by gain, offset and noise; images are their slices."""

    def __init__(self, setting: Setting, steps: int, images: int, pool: int = 32) -> None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(pool, 1, 6, 6, 5, generator=generator)
        shape = (setting.size, setting.size, setting.num_slices)
        self.pool = F.interpolate(coarse, size=shape, mode="trilinear").sigmoid()
        self.setting, self.steps, self.images = setting, steps, images

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        generator = torch.Generator().manual_seed(1)
        for _ in range(self.steps):
            chosen = torch.randperm(len(self.pool), generator=generator)[: self.setting.volumes]
            volumes: dict[str, Any] = self.setting.batch()
            volumes[Keys.VIEWS] = [self.view(self.pool[chosen], generator) for _ in range(2)]
            volumes[Keys.SAMPLE_INDEX] = chosen
            rows = torch.randperm(len(self.pool), generator=generator)[: self.images]
            place = int(torch.randint(self.setting.num_slices, (), generator=generator))
            pictures = self.pool[rows, ..., place]
            views = [self.view(pictures, generator) for _ in range(2)]
            yield {Keys.IMAGES: {Keys.VIEWS: views, Keys.SAMPLE_INDEX: rows}, Keys.VOLUMES: volumes}

    @staticmethod
    def view(x: Tensor, generator: torch.Generator) -> Tensor:
        """Another look at the same samples."""
        shape = (len(x),) + (1,) * (x.ndim - 1)
        gain = 0.7 + 0.6 * torch.rand(shape, generator=generator)
        offset = 0.2 * torch.rand(shape, generator=generator) - 0.1
        return gain * x + offset + 0.05 * torch.randn(x.shape, generator=generator)


def train_steps(setting: Setting, device: str, steps: int) -> str:
    """Part 2: the trainer with all three losses; raises if a loss is not finite."""
    clean(device)
    torch.manual_seed(0)
    encoder = SliceEncoder(setting.model, 1, setting.dim)
    images = min(32, 8 * setting.volumes)
    network = JointClusterNet(
        encoder,
        DeformableAggregator(setting.dim, setting.layers, setting.heads, setting.head_dim, setting.ffn),
        ClusterHead(ProjectionHead(encoder.feature_dim, 256, 64), Prototypes(64, 16)),
        ClusterHead(None, Prototypes(setting.dim, 16), center=True),
        MaskedSliceDecoder(setting.dim, 0.3, "block"),
        channels_last=True,
    ).to(device)
    seen: list[dict[str, float]] = []
    trainer = ClusterTrainer(
        device=torch.device(device),
        max_epochs=1,
        train_data_loader=SyntheticAnatomy(setting, steps, images),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=3e-4),
        image_criterion=SwappedPredictionLoss(16, 64).to(device),
        volume_criterion=SwappedPredictionLoss(16, setting.dim, queue_length=8 * setting.volumes).to(device),
        mask_criterion=MaskedSliceLoss().to(device),
        train_handlers=[_Record(seen)],
        amp=True,
        max_grad_norm=1.0,
    )
    start = time.perf_counter()
    trainer.run()
    synchronize(device)
    seconds = time.perf_counter() - start
    part = max(1, steps // 5)
    names = [name for name in seen[0] if name.endswith("loss")]
    if len(seen) != steps or not all(math.isfinite(report[name]) for report in seen for name in names):
        raise FloatingPointError(f"{len(seen)} of {steps} steps; a loss is not finite in {seen[-1]}")
    ends = {
        name: [statistics.mean(report[name] for report in some) for some in (seen[:part], seen[-part:])]
        for name in names
    }
    falling = ends["loss"][1] < ends["loss"][0]
    lines = [
        f"{steps} steps of the trainer ({setting.model}, {setting.volumes} volumes and {images} images, bf16): all "
        f"losses finite, total {'falling' if falling else 'NOT FALLING'}; {seconds / steps * 1e3:.0f} ms a step with "
        f"making its data, peak {peak(device):.2f} GB\n",
        f"| loss | first {part} steps | last {part} steps |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {first:.4f} | {last:.4f} |" for name, (first, last) in ends.items()]
    return "\n".join(lines)


class _Record:
    """Keeps every step's report."""

    def __init__(self, seen: list[dict[str, float]]) -> None:
        self.seen = seen

    def attach(self, engine: Any) -> None:
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: self.seen.append(dict(e.state.output[0])))


# --- largest batch ----------------------------------------------------------------------------------------------------


def fits(setting: Setting, device: str, checkpointing: bool) -> bool:
    """Whether two steps of so many volumes run."""
    clean(device)
    try:
        step, batch = OurStep(setting, device, checkpointing=checkpointing), setting.batch(device)
        for _ in range(2):
            step(batch)
        synchronize(device)
    except torch.OutOfMemoryError:
        return False
    return True


def largest_batch(setting: Setting, device: str, limit: int) -> str:
    """Part 3: double until memory ends or ``limit`` is reached, then halve the gap to an eighth."""
    lines = ["| most volumes in one step (two views, bf16, channels-last) | volumes |", "|---|---|"]
    for title, checkpointing in (("as it is", False), ("with checkpointing", True)):
        good, bad = 0, 1
        while bad <= limit and fits(replace(setting, volumes=bad), device, checkpointing):
            good, bad = bad, 2 * bad
        if bad <= limit:
            while bad - good > max(1, good // 8):
                middle = (good + bad) // 2
                if fits(replace(setting, volumes=middle), device, checkpointing):
                    good = middle
                else:
                    bad = middle
        lines.append(f"| {title} | {good}{' (not more tried)' if bad > limit else ''} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="The joint step on a GPU")
    parser.add_argument("--volumes", type=int, help="volumes per step of parts 1 and 2")
    parser.add_argument("--steps", type=int, default=100, help="training steps of part 2")
    parser.add_argument("--parts", default="123")
    parser.add_argument("--limit", type=int, help="most volumes that part 3 tries")
    parser.add_argument("--out", type=Path, help="Markdown file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            "No CUDA device found, nothing measured: run this where there is an NVIDIA GPU and a CUDA build of torch."
        )
        return
    device, setting = arguments.device, TINY if arguments.tiny else FULL
    setting = replace(setting, volumes=arguments.volumes or setting.volumes)
    limit = arguments.limit or (4 if arguments.tiny else 256)
    what = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    texts, failed = [f"torch {torch.__version__}, {what}"], 0
    print(texts[0], end="\n\n", flush=True)
    parts: dict[str, Callable[[], str]] = {
        "1": lambda: bench_variants(setting, device, *((1, 2) if arguments.tiny else (5, 20))),
        "2": lambda: train_steps(setting, device, arguments.steps),
        "3": lambda: largest_batch(setting, device, limit),
    }
    for name in arguments.parts:
        try:
            texts.append(parts[name]())
        except Exception as error:  # the other parts shall still be measured on a machine that is hard to come by
            texts.append(f"part {name} failed: {type(error).__name__}: {error}")
            failed += 1
        print(texts[-1], end="\n\n", flush=True)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n\n".join(texts) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
