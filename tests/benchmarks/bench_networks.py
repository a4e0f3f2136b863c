# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Speed of the networks against their peers, paired and interleaved in one run.

``python -m tests.benchmarks.bench_networks [--repeats 5] [--slices 16] [--markdown FILE]`` prints, for each piece, the
median over rounds of (peer's time / ours), so that a busy machine slows both sides alike. Peers are written here from
their formulas.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from monai.networks.nets import resnet50
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cluster.networks import DeformableAggregator, DeformableSliceAttention, SliceEncoder
from monai_cluster.networks.slice_encoder import as_channels_last

DIM, HEADS, WIDTH = 640, 8, 64
Row = tuple[str, float, dict[str, float]]


class FullAttention(nn.Module):
    """Self-attention of the same width on PyTorch's fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * HEADS * WIDTH, bias=False), nn.Linear(HEADS * WIDTH, DIM)

    def forward(self, x: Tensor) -> Tensor:
        batch, slices, _ = x.shape
        q, k, v = self.qkv(x).view(batch, slices, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v)
        return self.out(heads.transpose(1, 2).reshape(batch, slices, -1))


class GridSampleAttention(nn.Module):
    """Offset attention as public implementations compute it: channels first, grid_sample, an MLP on every distance."""

    def __init__(self, kernel: int = 6, stride: int = 4) -> None:
        super().__init__()
        inner, hidden = HEADS * WIDTH, DIM // 4
        self.stride = stride
        self.q, self.k = (
            nn.Conv1d(DIM, inner, 1, bias=False, groups=HEADS),
            nn.Conv1d(DIM, inner, 1, bias=False, groups=HEADS),
        )
        self.v, self.out = nn.Conv1d(DIM, inner, 1, bias=False, groups=HEADS), nn.Conv1d(inner, DIM, 1)
        self.depthwise = nn.Conv1d(WIDTH, WIDTH, kernel, stride, (kernel - stride) // 2, groups=WIDTH)
        self.offset = nn.Conv1d(WIDTH, 1, 1, bias=False)
        self.bias = nn.Sequential(
            nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, slices, _ = x.shape
        x = x.transpose(1, 2)
        q = self.q(x)
        seen = F.gelu(self.depthwise(q.reshape(batch * HEADS, WIDTH, slices)))
        offset = self.offset(seen)[:, 0].tanh() * self.stride
        points = offset.shape[-1]
        position = torch.arange(points, dtype=x.dtype) + offset
        grid = 2 * position / max(points - 1, 1) - 1
        grouped = x.reshape(batch * HEADS, DIM // HEADS, 1, slices)
        where = torch.stack([grid, torch.zeros_like(grid)], dim=-1)[:, None]
        sampled = F.grid_sample(grouped, where, align_corners=False)[:, :, 0].reshape(batch, DIM, points)
        k, v = self.k(sampled), self.v(sampled)
        q, k, v = (t.reshape(batch, HEADS, WIDTH, -1).transpose(-1, -2) for t in (q, k, v))
        distance = (2 * torch.arange(slices, dtype=x.dtype) / (slices - 1) - 1)[None, :, None] - grid[:, None]
        bias = self.bias((distance.sign() * distance.abs().log1p())[..., None])[..., 0].view(
            batch, HEADS, slices, points
        )
        heads = torch.softmax(q @ k.transpose(-1, -2) * WIDTH**-0.5 + bias, dim=-1) @ v
        return self.out(heads.transpose(-1, -2).reshape(batch, -1, slices)).transpose(1, 2)


def forward_backward(
    module: nn.Module, x: Tensor, call: Callable[[Tensor], Tensor] | None = None, bf16: bool = False
) -> Callable[[], None]:
    """One forward and backward pass with fresh gradients, as a function to be timed."""

    def run() -> None:
        x.grad = None
        module.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
            out = (call or module)(x)
        out.float().square().mean().backward()

    return run


def paired(
    ours: Callable[[], None], peers: dict[str, Callable[[], None]], repeats: int
) -> tuple[float, dict[str, float]]:
    """Median seconds of ours, and per peer the median over rounds of its time over ours."""
    ours()
    for peer in peers.values():
        peer()
    times: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeats):
        start = time.perf_counter()
        ours()
        mine = time.perf_counter() - start
        times.append(mine)
        for name, peer in peers.items():
            start = time.perf_counter()
            peer()
            ratios[name].append((time.perf_counter() - start) / mine)
    return statistics.median(times), {name: statistics.median(values) for name, values in ratios.items()}


def bench_attention(repeats: int) -> Iterator[Row]:
    for slices in (64, 128, 256):
        x = torch.randn(4, slices, DIM, requires_grad=True)
        peers = {
            "full SDPA": forward_backward(FullAttention(), x),
            "grid_sample": forward_backward(GridSampleAttention(), x),
        }
        ours = forward_backward(DeformableSliceAttention(DIM), x)
        yield f"deformable attention, B 4, S {slices}, fp32", *paired(ours, peers, 4 * repeats)


def repeated(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A three-channel network on a one-channel image, as users feed it."""
    return lambda x: network(x.expand(-1, 3, -1, -1).contiguous())


def monai_resnet() -> nn.Module:
    return resnet50(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, feed_forward=False)


def bench_encoder(repeats: int, size: int = 128) -> Iterator[Row]:
    x = torch.randn(16, 1, size, size)
    encoder = SliceEncoder("resnet50").to(memory_format=torch.channels_last)
    monai = monai_resnet()
    peers = {"MONAI resnet50, 3 channels, NCHW fp32": forward_backward(monai, x, repeated(monai))}
    for name, bf16 in (("fp32", False), ("bf16", True)):
        ours = forward_backward(encoder, as_channels_last(x), lambda x: encoder(x).embedding, bf16)
        yield f"slice encoder ResNet-50, 16 x {size}², channels last, {name}", *paired(ours, peers, repeats)


class PeerVolumeStep(nn.Module):
    """A volume step from peers' parts: three-channel NCHW ResNet-50, grid_sample attention layers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.projection = monai_resnet(), nn.Linear(2048, DIM)
        self.attention = nn.ModuleList(GridSampleAttention() for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(8))
        self.ffn = nn.ModuleList(nn.Sequential(nn.Linear(DIM, 720), nn.GELU(), nn.Linear(720, DIM)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width, slices = x.shape
        flat = x.permute(0, 4, 1, 2, 3).reshape(-1, channels, height, width)
        tokens = self.projection(repeated(self.encoder)(flat)).view(batch, slices, DIM)
        for number in range(4):
            tokens = self.norms[2 * number](tokens + self.attention[number](tokens))
            tokens = self.norms[2 * number + 1](tokens + self.ffn[number](tokens))
        return F.normalize(tokens.mean(1), dim=1)


class OurVolumeStep(nn.Module):
    """The same step from our parts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SliceEncoder("resnet50").to(memory_format=torch.channels_last)
        self.aggregator = DeformableAggregator(DIM)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width, slices = x.shape
        flat = as_channels_last(x.permute(0, 4, 1, 2, 3).reshape(-1, channels, height, width))
        return self.aggregator(self.encoder(flat).embedding.view(batch, slices, DIM))[1]


def bench_volume_step(repeats: int, slices: int) -> Iterator[Row]:
    x = torch.randn(2, 1, 128, 128, slices)
    peers = {"3 channels, NCHW fp32, grid_sample": forward_backward(PeerVolumeStep(), x)}
    step = OurVolumeStep()
    for name, bf16 in (("fp32", False), ("bf16", True)):
        ours = forward_backward(step, x, None, bf16)
        yield f"volume step, 2 views of {slices} x 128², {name}", *paired(ours, peers, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slices", type=int, default=16, help="slices per view of the volume step")
    parser.add_argument("--parts", default="attention,encoder,step", help="which pieces, separated by commas")
    parser.add_argument("--markdown", default="", help="also append the table to this file")
    options = parser.parse_args()
    torch.manual_seed(0)
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "attention": lambda: bench_attention(options.repeats),
        "encoder": lambda: bench_encoder(options.repeats),
        "step": lambda: bench_volume_step(max(2, options.repeats // 2), options.slices),
    }

    def show(line: str) -> None:
        print(line, flush=True)
        if options.markdown:
            with open(options.markdown, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    show(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")
    show("| piece (forward and backward) | ours, ms | peer's time / ours |\n|---|---|---|")
    for part in options.parts.split(","):
        for name, seconds, ratios in parts[part]():
            show(f"| {name} | {1000 * seconds:.1f} | " + ", ".join(f"{k} {v:.2f}" for k, v in ratios.items()) + " |")


if __name__ == "__main__":
    main()
