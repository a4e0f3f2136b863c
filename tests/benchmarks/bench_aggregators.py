# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The deformable aggregator beside pooling and a plain transformer, on the same frozen slice embeddings.

``python -m tests.benchmarks.bench_aggregators WEIGHTS [--tasks ABC] [--seeds 3] [--threads 2] [--out TABLE.md]``

The encoder is frozen and every slice is encoded once. Each aggregator is then trained from scratch with a linear head:
same steps, same batches, AdamW with a cosine to zero, classes weighted equally, the learning rate chosen on validation
out of the same few for each.

A  adrenal_mnist3d: normal or hyperplasia/mass, 64 slices thinned to 32, the given split.
B  acdc_mini: five diagnoses, a patient is the end-diastolic and the end-systolic volume side by side; five folds by
   patient, each rotated as training (three), validation and test.
C  order: A's embeddings with the order of slices reversed or not, and with the first or the second half reversed.
   Pooling cannot tell (its AUC is .5 by construction), so this shows whether an aggregator uses position at all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn import functional as F

import monai_cluster.networks as networks
from monai_cluster.apps.embedding import weights_file
from monai_cluster.data import VolumeDataset, volume_preprocessing
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.transforms import ModalityIntensity
from monai_cluster.weights import load_pretrained
from tests.benchmarks.real_datalist import SHARED
from tests.benchmarks.real_probe import PREPROCESSING, Bootstrap, encode, untrained, with_interval, with_spread

Array = npt.NDArray[Any]


class Bags(NamedTuple):
    """N subjects of V volumes of at most S slices, with labels."""

    slices: Tensor  # N V S D
    padded: Tensor  # N V S
    position_mm: Tensor  # N V S
    labels: Tensor  # N

    def pick(self, index: Tensor) -> Bags:
        """Some of the subjects."""
        return Bags(*(part[index] for part in self))

    def standardised(self, rows: Tensor) -> Bags:
        """Slice embeddings with mean 0 and deviation 1 in every feature over the real slices of ``rows``."""
        known = self.slices[rows][~self.padded[rows]]
        scaled = (self.slices - known.mean(0)) / known.std(0).clamp(min=1e-6)
        return self._replace(slices=scaled.masked_fill(self.padded[..., None], 0))


@dataclass(frozen=True)
class Variant:
    """One contestant: how to build it, the tasks it is in, and whether it comes from the export.

    An exported aggregator takes the embeddings as they are, all others standardised ones.
    """

    name: str
    build: Callable[[], nn.Module]
    tasks: str = "ABC"
    exported: bool = False
    frozen: bool = False


class Classifier(nn.Module):
    """Aggregator and linear head; the volumes of a subject are laid side by side."""

    def __init__(self, aggregator: nn.Module, dim: int, volumes: int, classes: int) -> None:
        super().__init__()
        self.aggregator, self.scale = aggregator, dim**0.5  # unit length to unit variance, so that one lr suits
        self.head = nn.Linear(volumes * dim, classes)

    def forward(self, bags: Bags) -> Tensor:
        """Class scores ``N C``."""
        flat = [part.flatten(0, 1) for part in bags[:3]]
        volume = self.aggregator(*flat)[1].view(len(bags.slices), -1)
        scores: Tensor = self.head(volume * self.scale)
        return scores


def contestants(dim: int, architecture: dict[str, Any] | None, exported: nn.Module | None) -> list[Variant]:
    """Layers and widths as in the export, where it has a deformable aggregator; else the CPU preset's."""
    known = architecture if architecture and architecture["type"] == "DeformableAggregator" else {}
    sizes = {"num_layers": 2, "num_heads": 4, "head_dim": 32, "ffn_dim": 2 * dim}
    sizes = {name: known.get(name, value) for name, value in sizes.items()}
    heads = {name: sizes[name] for name in ("num_heads", "head_dim")}
    found = [
        Variant("deformable", lambda: networks.DeformableAggregator(dim, **sizes)),
        Variant("plain transformer", lambda: networks.TransformerAggregator(dim, **sizes)),
        Variant(
            "transformer without positions",
            lambda: networks.TransformerAggregator(dim, **sizes, position_bias=False),
            tasks="C",
        ),
        Variant("query attention", lambda: networks.QueryAttentionPool(dim, **heads)),
        Variant("gated attention", lambda: networks.GatedAttentionPool(dim)),
        Variant("mean", lambda: networks.MeanPool(dim)),
        Variant("max", lambda: networks.MaxPool(dim)),
    ]
    if exported is not None:
        state = {name: value.clone() for name, value in exported.state_dict().items()}
        kind, arguments = architecture["type"], {k: v for k, v in architecture.items() if k != "type"}

        def rebuild() -> nn.Module:
            module: nn.Module = getattr(networks, kind)(**arguments)
            module.load_state_dict(state)
            return module

        found += [
            Variant("the export's, trained on", rebuild, "AB", exported=True),
            Variant("the export's, frozen", rebuild, "AB", exported=True, frozen=True),
        ]
    return found


# --- data -------------------------------------------------------------------------------------------------------------


def encode_sparse(encoder: networks.SliceEncoder, slices: Tensor) -> Tensor:
    """Embeddings of ``N 1 H W``; all empty slices share one encoding."""
    empty = slices.flatten(1).amax(1) == 0
    found = slices.new_empty(len(slices), encoder.embedding_dim)
    found[~empty] = encode(encoder, slices[~empty])[1]
    found[empty] = encode(encoder, torch.zeros_like(slices[:1]))[1]
    return found


def adrenal(encoder: networks.SliceEncoder, limit: int | None) -> tuple[dict[str, Bags], float]:
    """Every second of 64 slices (last axis), embedded; and the AUC of the gland's volume alone on the test split."""
    scale, bags, area = ModalityIntensity(), {}, 0.0
    with np.load(SHARED / "adrenal_mnist3d" / "adrenalmnist3d_64_dev.npz") as archive:
        for split in ("train", "val", "test"):
            stored = torch.from_numpy(archive[f"{split}_images"][:limit])
            labels = torch.from_numpy(archive[f"{split}_labels"][:limit].ravel()).long()
            area = float(roc_auc_score(labels.numpy(), stored.flatten(1).float().sum(1).numpy()))
            volumes = torch.stack([scale(volume.float()) for volume in stored])[..., ::2]
            slices = volumes.movedim(-1, 1).reshape(-1, 1, *volumes.shape[1:3])
            embedding = encode_sparse(encoder, slices).view(len(labels), 1, volumes.shape[-1], -1)
            position = (torch.arange(volumes.shape[-1]) * 2.0).expand(embedding.shape[:3])  # spacing unknown: voxels
            bags[split] = Bags(embedding, torch.zeros(embedding.shape[:3], dtype=torch.bool), position, labels)
    return bags, area


def cardiac(encoder: networks.SliceEncoder, preprocessing: dict[str, Any]) -> Bags:
    """All patients of all splits; slices are read at twice the size and cropped to the middle, where the heart is."""
    root = SHARED / "acdc_mini"
    listed = json.loads((root / "datalist_classification.json").read_text())
    patients = sorted(
        (row for split in ("training", "validation", "test") for row in listed[split]), key=lambda r: r["subject"]
    )
    paths = [str(root / image) for row in patients for image in row["image"]]
    size = preprocessing["size"]
    rows = [{Keys.IMAGE: path, Keys.SAMPLE_INDEX: number, "modality": "MR"} for number, path in enumerate(paths)]
    dataset = VolumeDataset(rows, volume_preprocessing(**preprocessing | {"size": 2 * size}))
    volumes = [dataset[number][Keys.IMAGE].as_tensor()[:1] for number in range(len(rows))]
    middle = slice(size // 2, size // 2 + size)
    slices = [volume[:, middle, middle].movedim(-1, 0).contiguous() for volume in volumes]
    counts = [len(part) for part in slices]
    embedding = encode(encoder, torch.cat(slices))[1].split(counts)
    padded = torch.arange(max(counts)) >= torch.tensor(counts)[:, None]
    table = nn.utils.rnn.pad_sequence(list(embedding), batch_first=True)
    position = torch.arange(max(counts)) * 10.0  # nominal spacing of this copy
    position = position.expand(len(counts), -1).masked_fill(padded, 0)
    labels = torch.tensor([row["class_label"] for row in patients])
    return Bags(*(part.unflatten(0, (len(patients), 2)) for part in (table, padded, position)), labels)


def reordered(bags: Bags, how: str) -> Bags:
    """Each subject twice, with label 0 and 1; positions stay ascending."""
    slices, half = bags.slices, bags.slices.shape[2] // 2
    if how == "whole":
        pair = (slices, slices.flip(2))
    else:
        first = torch.cat([slices[:, :, :half].flip(2), slices[:, :, half:]], dim=2)
        second = torch.cat([slices[:, :, :half], slices[:, :, half:].flip(2)], dim=2)
        pair = (first, second)
    labels = torch.arange(2).repeat_interleave(len(slices))
    return Bags(torch.cat(pair), bags.padded.repeat(2, 1, 1), bags.position_mm.repeat(2, 1, 1), labels)


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """What every contestant gets."""

    steps: int
    batch_size: int
    learning_rates: tuple[float, ...]


def make(variant: Variant, bags: Bags, classes: int, seed: int) -> tuple[Classifier, list[nn.Parameter]]:
    """A fresh classifier and the parameters to train."""
    torch.manual_seed(seed)
    model = Classifier(variant.build(), bags.slices.shape[-1], bags.slices.shape[1], classes)
    model.aggregator.requires_grad_(not variant.frozen)
    return model, [parameter for parameter in model.parameters() if parameter.requires_grad]


def step_of(model: Classifier, optimizer: torch.optim.Optimizer, batch: Bags, weight: Tensor) -> None:
    """One supervised step."""
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(model(batch), batch.labels, weight).backward()
    optimizer.step()


def train(variant: Variant, bags: Bags, classes: int, budget: Budget, lr: float, seed: int) -> Classifier:
    """Train on all of ``bags``; batches and initial weights depend on the seed alone."""
    model, trained = make(variant, bags, classes, seed)
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    counts = torch.bincount(bags.labels, minlength=classes)
    weight = len(bags.labels) / (classes * counts.clamp(min=1).float())
    generator, order = torch.Generator().manual_seed(seed), torch.zeros(0, dtype=torch.long)
    model.train()
    if variant.frozen:
        model.aggregator.eval()
    for _ in range(budget.steps):
        if len(order) < budget.batch_size:
            order = torch.cat([order, torch.randperm(len(bags.labels), generator=generator)])
        chosen, order = order[: budget.batch_size], order[budget.batch_size :]
        step_of(model, optimizer, bags.pick(chosen), weight)
        schedule.step()
    return model.eval()


@torch.inference_mode()
def predict(model: Classifier, bags: Bags) -> Array:
    """Class probabilities ``N C``."""
    found: Array = model(bags).softmax(1).numpy().round(5)  # what differs by rounding only shall be a tie
    return found


def area(scores: Array, labels: Array) -> float:
    """AUC, for several classes the mean of one against the rest."""
    return float(np.mean([roc_auc_score(labels == name, scores[:, name]) for name in np.unique(labels)]))


def balanced_accuracy(scores: Array, labels: Array) -> float:
    """Mean recall of the classes."""
    return float(np.mean([np.mean(scores[labels == name].argmax(1) == name) for name in np.unique(labels)]))


class Outcome(NamedTuple):
    """Test probabilities ``N C`` of every seed at the chosen learning rate."""

    scores: list[Array]
    learning_rate: str


def split_outcome(
    variant: Variant, splits: dict[str, Bags], classes: int, budget: Budget, seeds: Sequence[int]
) -> Outcome:
    """Given split: the learning rate with the best mean validation AUC over seeds."""
    tested: dict[float, list[Array]] = {}
    checked: dict[float, list[float]] = {}
    for lr in budget.learning_rates:
        for seed in seeds:
            model = train(variant, splits["train"], classes, budget, lr, seed)
            checked.setdefault(lr, []).append(area(predict(model, splits["val"]), splits["val"].labels.numpy()))
            tested.setdefault(lr, []).append(predict(model, splits["test"]))
    best = max(checked, key=lambda lr: float(np.mean(checked[lr])))
    return Outcome(tested[best], f"{best:g}")


def folded_outcome(variant: Variant, bags: Bags, classes: int, budget: Budget, seeds: Sequence[int]) -> Outcome:
    """Five folds, other ones for each seed; fold k is tested, fold k + 1 chooses the learning rate, the rest trains."""
    chosen, rates = [], []
    for seed in seeds:
        folds = StratifiedKFold(5, shuffle=True, random_state=seed).split(bags.labels, bags.labels)
        parts = [torch.from_numpy(test) for _, test in folds]
        tested = {lr: np.zeros((len(bags.labels), classes)) for lr in budget.learning_rates}
        checked = {lr: np.zeros((len(bags.labels), classes)) for lr in budget.learning_rates}
        for number, test in enumerate(parts):
            check = parts[(number + 1) % 5]
            rest = torch.cat([part for k, part in enumerate(parts) if k not in (number, (number + 1) % 5)])
            ready = bags if variant.exported else bags.standardised(rest)
            for lr in budget.learning_rates:
                model = train(variant, ready.pick(rest), classes, budget, lr, seed)
                tested[lr][test] = predict(model, ready.pick(test))
                checked[lr][check] = predict(model, ready.pick(check))
        labels = bags.labels.numpy()
        rates.append(max(checked, key=lambda lr: area(checked[lr], labels)))
        chosen.append(tested[rates[-1]])
    return Outcome(chosen, ", ".join(f"{rate:g}" for rate in rates))


# --- tables -----------------------------------------------------------------------------------------------------------


def times_per_step(
    variants: Sequence[Variant], bags: Bags, classes: int, rounds: int = 9, calls: int = 4
) -> list[float]:
    """Median over rounds of a training step's time relative to the first variant's, interleaved."""
    batch, weight = bags.pick(torch.arange(min(64, len(bags.labels)))), torch.ones(classes)
    made = [make(variant, bags, classes, 0) for variant in variants]
    ready = [(model.train(), torch.optim.AdamW(trained)) for model, trained in made]
    times: list[list[float]] = [[] for _ in variants]
    for turn in range(rounds + 1):
        for place, (model, optimizer) in enumerate(ready):
            start = time.perf_counter()
            for _ in range(calls):
                step_of(model, optimizer, batch, weight)
            if turn:
                times[place].append(time.perf_counter() - start)
    return [statistics.median(own / first for own, first in zip(each, times[0], strict=True)) for each in times]


def table(
    variants: Sequence[Variant],
    outcomes: Sequence[Outcome],
    bags: Bags,
    test: Array,
    ratios: Sequence[float],
    by: str,
    subjects: Array | None = None,
) -> str:
    """One row for each contestant; the difference is to the deformable one on the same resampled test subjects."""
    classes = int(test.max()) + 1
    bootstrap = Bootstrap(len(test), 0, subjects)

    def resampled(outcome: Outcome) -> Array:
        if by == "AUC":
            return np.mean([bootstrap.auc(scores[:, 1], test) for scores in outcome.scores], axis=0)
        hits = [(scores.argmax(1) == test).astype(float) for scores in outcome.scores]
        return np.mean([bootstrap.recall(hit, test) for hit in hits], axis=0)

    first = resampled(outcomes[0])
    lines = [
        f"| aggregator | parameters | lr | AUC | balanced accuracy | {by} minus deformable [95 %] | time per step |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant, outcome, ratio in zip(variants, outcomes, ratios, strict=True):
        count = sum(part.numel() for part in make(variant, bags, classes, 0)[0].aggregator.parameters())
        cells = [
            with_spread([area(scores, test) for scores in outcome.scores]),
            with_spread([balanced_accuracy(scores, test) for scores in outcome.scores]),
            "" if variant is variants[0] else with_interval(resampled(outcome) - first, True),
        ]
        own = "trained: 0" if variant.frozen else f"{count:,}"
        lines.append(f"| {variant.name} | {own} | {outcome.learning_rate} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines)


def report(variant: Variant, outcome: Outcome, test: Bags) -> None:
    """One line on standard error as soon as a contestant is done."""
    areas = [area(scores, test.labels.numpy()) for scores in outcome.scores]
    print(f"  {variant.name}: AUC {with_spread(areas)}, lr {outcome.learning_rate}", file=sys.stderr, flush=True)


def bench_split(
    title: str, variants: Sequence[Variant], raw: dict[str, Bags], budget: Budget, seeds: Sequence[int], copies: int = 1
) -> str:
    """Tasks A and C; ``copies`` of each subject follow one another."""
    everything = Bags(*(torch.cat(parts) for parts in zip(*raw.values(), strict=True)))
    ready = everything.standardised(torch.arange(len(raw["train"].labels)))
    ends = np.cumsum([len(part.labels) for part in raw.values()])
    pieces = zip(raw, np.r_[0, ends[:-1]], ends, strict=True)
    scaled = {name: ready.pick(torch.arange(start, end)) for name, start, end in pieces}
    outcomes = []
    for one in variants:
        outcomes.append(split_outcome(one, raw if one.exported else scaled, 2, budget, seeds))
        report(one, outcomes[-1], raw["test"])
    ratios = times_per_step(variants, scaled["train"], 2)
    counts = ", ".join(f"{name} {len(part.labels)}" for name, part in raw.items())
    test = raw["test"].labels.numpy()
    subjects = np.tile(np.arange(len(test) // copies), copies)
    body = table(variants, outcomes, scaled["train"], test, ratios, "AUC", subjects)
    return f"{title} ({counts}; {budget.steps} steps of {budget.batch_size}, {len(seeds)} seeds)\n\n{body}"


def bench_cardiac(variants: Sequence[Variant], bags: Bags, budget: Budget, seeds: Sequence[int]) -> str:
    """Task B."""
    outcomes = []
    for one in variants:
        outcomes.append(folded_outcome(one, bags, 5, budget, seeds))
        report(one, outcomes[-1], bags)
    ratios = times_per_step(variants, bags, 5)
    body = table(variants, outcomes, bags, bags.labels.numpy(), ratios, "balanced accuracy")
    return (
        f"B. acdc_mini, five diagnoses ({len(bags.labels)} patients in five folds; {budget.steps} steps of "
        f"{budget.batch_size}, {len(seeds)} seeds of folds and weights; chance: AUC .5, balanced accuracy .2)\n\n{body}"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Aggregators on the same frozen slice embeddings")
    parser.add_argument("weights", help="run folder or exported encoder.safetensors")
    parser.add_argument("--tasks", default="ABC")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--untrained", action="store_true", help="embed with the same encoder untrained")
    parser.add_argument("--limit", type=int, help="so many subjects per split of A and C, for a quick trial")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="Markdown file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    encoder, aggregator, description = load_pretrained(weights_file(arguments.weights))
    architecture = description["architecture"]["slice_aggregator"]
    if arguments.untrained:
        model = untrained(description["architecture"], arguments.seed)
        encoder, aggregator = model.encoder, None
    encoder.to(memory_format=torch.channels_last)
    variants = contestants(encoder.embedding_dim, architecture, aggregator)
    start, texts = time.perf_counter(), []

    def entered(task: str) -> list[Variant]:
        return [variant for variant in variants if task in variant.tasks]

    def say(text: str) -> None:
        texts.append(text)
        print(text, end="\n\n", flush=True)

    budget = Budget(arguments.steps, 32, (3e-4, 1e-3, 3e-3))
    if set(arguments.tasks) & set("AC"):
        splits, volume_area = adrenal(encoder, arguments.limit)
        embedded = time.perf_counter() - start
        if "A" in arguments.tasks:
            title = f"A. adrenal_mnist3d, 32 slices (gland volume alone: test AUC {volume_area:.3f})"
            say(bench_split(title, entered("A"), splits, budget, seeds))
            print(f"(embedded in {embedded:.0f} s, task done after {time.perf_counter() - start:.0f} s)\n", flush=True)
        if "C" in arguments.tasks:
            for how in ("whole", "half"):
                title = {"whole": "C1. order reversed or not", "half": "C2. first or second half reversed"}[how]
                tasks = {name: reordered(part, how) for name, part in splits.items()}
                single = Budget(arguments.steps, 32, (1e-3,))
                say(bench_split(title, entered("C"), tasks, single, seeds, copies=2))
    if "B" in arguments.tasks:
        bags = cardiac(encoder, (description.get("metadata", {}).get("preprocessing") or PREPROCESSING)["volume"])
        say(bench_cardiac(entered("B"), bags, Budget(max(1, arguments.steps * 3 // 10), 24, (3e-4, 3e-3)), seeds))
    print(f"whole run: {time.perf_counter() - start:.0f} s with {arguments.threads} threads")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
