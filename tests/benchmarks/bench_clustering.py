# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""How fast the clustering core is beside its peers' formulas, paired and interleaved in one run.

``python -m tests.benchmarks.bench_clustering [--threads 2] [--rounds 7]`` prints one markdown table. Each round times
every contestant, one after another; a ratio is the median over rounds of peer's time / our time, so above 1 we are
faster. The peers' formulas are written down here; POT and scikit-learn are called. On a machine that others use, give
one thread: threads that wait for one another measure the neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import ot
import torch
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.clustering import kmeans
from monai_cluster.clustering.sinkhorn import sinkhorn_knopp

SINKHORN_SHAPES = ((4096, 3000), (1024, 3000), (256, 3000), (64, 3000), (12, 3000), (396, 128), (64, 128), (16, 32))
KMEANS_SHAPES = ((10_000, 128, 300), (20_000, 128, 1000), (50_000, 128, 1000))
MIN_SECONDS = 0.01  # short work is repeated that long for one timing

Contestants = dict[str, Callable[[], object]]


def plain_sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """The usual K x B form: normalise rows and columns of the whole matrix in turn."""
    plan = torch.exp(scores / epsilon).t()
    prototypes, samples = plan.shape
    plan /= plan.sum()
    for _ in range(iterations):
        plan /= plan.sum(dim=1, keepdim=True)
        plan /= prototypes
        plan /= plan.sum(dim=0, keepdim=True)
        plan /= samples
    plan *= samples
    return plan.t()


def pot_sinkhorn(scores: Tensor) -> object:
    """POT's plain solver on the same tensors, three rounds."""
    samples, prototypes = scores.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ot.bregman.sinkhorn_knopp(
            torch.full((samples,), 1 / samples),
            torch.full((prototypes,), 1 / prototypes),
            -scores,
            0.05,
            numItermax=3,
            stopThr=0,
            warn=False,
        )


def index_loop_sums(rows: Tensor, assignments: Tensor, number: int) -> Tensor:
    """M step by the rows of a sparse matrix: one index operation for each cluster."""
    labels, places = assignments.numpy(), np.arange(len(rows))
    members = csr_matrix((places, (labels, places)), shape=(number, len(rows)))
    sums = torch.zeros(number, rows.shape[1])
    for cluster in range(number):
        found = members.data[members.indptr[cluster] : members.indptr[cluster + 1]]
        if len(found):
            sums[cluster] = rows[torch.from_numpy(found)].mean(dim=0)
    return sums


def plain_kmeans(rows: Tensor, centroids: Tensor, iterations: int = 10) -> tuple[Tensor, Tensor]:
    """Whole similarity matrix, maximum, index loop."""
    for iteration in range(iterations + 1):
        assignments = torch.mm(rows, centroids.t()).max(dim=1)[1]
        if iteration < iterations:
            centroids = F.normalize(index_loop_sums(rows, assignments, len(centroids)), dim=1)
    return centroids, assignments


def sklearn_kmeans(rows: Tensor, centroids: Tensor) -> object:
    """Lloyd on the same normalised rows from the same start (centroids are not re-normalised)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solver = KMeans(len(centroids), init=centroids.numpy(), n_init=1, max_iter=10, tol=0, algorithm="lloyd")
        return solver.fit(rows.numpy())


def compare(title: str, contestants: Contestants, rounds: int, ours: str = "ours") -> None:
    """Print one row: our time and every peer's time over ours."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    calls = {name: max(1, round(MIN_SECONDS / _once(contestant, 3))) for name, contestant in contestants.items()}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            times[name].append(_once(contestant, calls[name]))
    ratios = [
        f"{name} {statistics.median(theirs / own for theirs, own in zip(times[name], times[ours], strict=True)):.2f}"
        for name in contestants
        if name != ours
    ]
    print(f"| {title} | {1e3 * statistics.median(times[ours]):.2f} ms | {' · '.join(ratios)} |", flush=True)


def _once(contestant: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        contestant()
    return (time.perf_counter() - start) / calls


def bench_sinkhorn(rounds: int) -> None:
    """Cosine scores of random directions, the usual epsilon, three rounds; the log domain at epsilon .005 last."""
    generator = torch.Generator().manual_seed(0)
    for samples, prototypes in SINKHORN_SHAPES:
        scores = _directions(samples, 128, generator) @ _directions(prototypes, 128, generator).T
        contestants: Contestants = {
            "ours": lambda scores=scores: sinkhorn_knopp(scores),
            "plain K x B": lambda scores=scores: plain_sinkhorn(scores),
            "POT": lambda scores=scores: pot_sinkhorn(scores),
            "ours at ε .005": lambda scores=scores: sinkhorn_knopp(scores, 0.005),
        }
        compare(
            f"Sinkhorn {samples} x {prototypes}", contestants, rounds if samples * prototypes > 1e6 else 15 * rounds
        )


def bench_kmeans(rounds: int) -> None:
    """Random directions (nothing converges early), a start of random rows, 10 rounds, each step by itself too."""
    generator = torch.Generator().manual_seed(0)
    for number, dim, clusters in KMEANS_SHAPES:
        rows = _directions(number, dim, generator)
        start = rows[:clusters].clone()
        labels = kmeans._assign(rows, start, "fp32")[1]
        shape = f"{number} x {dim}, K {clusters}"
        steps: Contestants = {
            "ours": lambda rows=rows, start=start: kmeans._assign(rows, start, "fp32"),
            "mm + max": lambda rows=rows, start=start: torch.mm(rows, start.t()).max(dim=1),
            "ours bf16": lambda rows=rows, start=start: kmeans._assign(rows, start, "bf16"),
        }
        compare(f"E step {shape}", steps, rounds)
        sums: Contestants = {
            "ours": lambda rows=rows, start=start, labels=labels: kmeans._mean_directions(rows, labels, start, None),
            "index loop": lambda rows=rows, labels=labels, k=clusters: index_loop_sums(rows, labels, k),
        }
        compare(f"M step {shape}", sums, rounds)
        whole: Contestants = {
            "ours": lambda rows=rows, start=start: kmeans.spherical_kmeans(rows, len(start), initial=start),
            "mm + max + index loop": lambda rows=rows, start=start: plain_kmeans(rows, start),
            "scikit-learn": lambda rows=rows, start=start: sklearn_kmeans(rows, start),
            "ours bf16": lambda rows=rows, start=start: kmeans.spherical_kmeans(
                rows, len(start), initial=start, precision="bf16"
            ),
        }
        compare(f"k-means, 10 rounds, {shape}", whole, max(3, rounds // 2))
        _agreement(rows, start)


def _agreement(rows: Tensor, start: Tensor) -> None:
    """What the speed costs: equal labels in fp32, objective in bf16."""
    exact, low = kmeans.KMeansReport(), kmeans.KMeansReport()
    _, ours = kmeans.spherical_kmeans(rows, len(start), initial=start, report=exact)
    kmeans.spherical_kmeans(rows, len(start), initial=start, precision="bf16", report=low)
    same = float((ours == plain_kmeans(rows, start)[1]).float().mean())
    change = 100 * (low.objective[-1] / exact.objective[-1] - 1)
    print(
        f"|   … labels equal to the plain form | {100 * same:.2f} % | bf16 changes the objective by {change:+.3f} % |"
    )


def _directions(number: int, dim: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(number, dim, generator=generator), dim=1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Clustering core against its peers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, fp32, medians of paired ratios (peer / ours)\n")
    print("| work | ours | how many times longer the others take |\n|---|---|---|")
    bench_sinkhorn(arguments.rounds)
    bench_kmeans(arguments.rounds)


if __name__ == "__main__":
    main()
