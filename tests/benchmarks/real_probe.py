# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What a pretrained encoder knows about real images, beside the same encoder untrained and plain pixels.

``python -m tests.benchmarks.real_probe WEIGHTS [--untrained 3] [--threads 2] [--out TABLE.md]``; WEIGHTS is a run
folder or an exported ``encoder.safetensors``. Two questions:

(a) pneumonia_mnist (never in the pretraining list): kNN (k = 20) and linear probe, learned from the training split and
    scored on the test split; the probe's penalty is chosen by AUC on the validation split, for pixels in the same way.
(b) dataset identity in the pretraining list: leave-one-subject-out kNN at image, slice and volume level, and how well
    spherical k-means clusters (as many as data sets) agree with it.

Intervals are 95 % bootstrap intervals over test images (a) or whole subjects (b); "difference" is pretrained minus
untrained on the same resamples, each against one of the untrained seeds drawn at random, so that the interval holds
their spread too (not that of pretraining itself). Everything is deterministic by ``--seed``.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

import monai_cluster.networks as networks
from monai_cluster.apps.embedding import weights_file
from monai_cluster.clustering import spherical_kmeans
from monai_cluster.data import (
    ClusterImageDataset,
    VolumeDataset,
    image_preprocessing,
    load_datalist,
    volume_preprocessing,
)
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.metrics import knn_predict
from monai_cluster.metrics.agreement import clustering_agreement
from monai_cluster.networks.slice_encoder import as_channels_last
from monai_cluster.transforms import ModalityIntensity
from monai_cluster.transforms.slice_geometry import slice_positions
from monai_cluster.weights import load_pretrained
from tests.benchmarks.real_datalist import SHARED, write

Array = npt.NDArray[Any]
NEIGHBOURS, TEMPERATURE = 20, 0.07
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PREPROCESSING = {  # the CPU preset's, for an export that says nothing
    "volume": {"size": 64, "upright": True, "max_slices": 48, "window": "wide", "channel": 0},
    "image": {"size": 80, "pad": True, "window": "wide"},
    "num_slices": 12,
}


# --- encoders ---------------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """An encoder and, where the export has one, its aggregator, in evaluation mode."""

    name: str
    encoder: networks.SliceEncoder
    aggregator: nn.Module | None


def load_models(weights: str, num_untrained: int, seed: int) -> tuple[list[Model], dict[str, Any]]:
    """The pretrained model, as many untrained ones as wanted, and the preprocessing that the export names."""
    encoder, aggregator, description = load_pretrained(weights_file(weights))
    models = [Model("pretrained", encoder, aggregator)]
    models += [untrained(description["architecture"], seed + number) for number in range(num_untrained)]
    for model in models:
        model.encoder.to(memory_format=torch.channels_last)
    return models, description.get("metadata", {}).get("preprocessing") or PREPROCESSING


def untrained(architecture: dict[str, Any], seed: int) -> Model:
    """The same architecture as its constructors make it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = networks.SliceEncoder(**architecture["slice_encoder"])
        arguments = dict(architecture["slice_aggregator"] or {})
        aggregator = getattr(networks, arguments.pop("type"))(**arguments).eval() if arguments else None
    return Model(f"untrained {seed}", encoder.eval(), aggregator)


@torch.inference_mode()
def encode(encoder: networks.SliceEncoder, slices: Tensor, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """Features ``N F`` and embeddings ``N D`` of ``N 1 H W``."""
    parts = [encoder(as_channels_last(part)) for part in slices.split(batch_size)]
    return torch.cat([part.features for part in parts]), torch.cat([part.embedding for part in parts])


# --- scores with intervals --------------------------------------------------------------------------------------------


class Bootstrap:
    """Resampled test sets as counts ``R N``; whole groups are drawn where groups are given."""

    def __init__(self, number: int, seed: int, groups: Array | None = None, resamples: int = 2000) -> None:
        generator = np.random.default_rng(seed)
        owner = np.arange(number) if groups is None else np.unique(groups, return_inverse=True)[1]
        drawn = generator.multinomial(owner.max() + 1, np.full(owner.max() + 1, 1 / (owner.max() + 1)), resamples)
        self.counts = np.concatenate([np.ones((1, number)), drawn[:, owner]])  # row 0 is the test set itself

    def mean(self, values: Array) -> Array:
        """Weighted mean of ``N`` values for each resample."""
        return self.counts @ values / np.maximum(self.counts.sum(1), 1)

    def recall(self, values: Array, truth: Array) -> Array:
        """Mean over classes of the mean inside the class (balanced accuracy, where values are hits)."""
        shares = []
        for name in np.unique(truth):
            counts = self.counts[:, truth == name]
            total = counts.sum(1)
            shares.append(np.where(total > 0, counts @ values[truth == name] / np.maximum(total, 1), np.nan))
        return np.asarray(np.nanmean(shares, axis=0))

    def auc(self, scores: Array, truth: Array) -> Array:
        """Area under the ROC curve from all pairs of a positive and a negative item, ties half."""
        positive, negative = scores[truth == 1], scores[truth == 0]
        wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
        weight_positive, weight_negative = self.counts[:, truth == 1], self.counts[:, truth == 0]
        total = weight_positive.sum(1) * weight_negative.sum(1)
        return np.asarray(((weight_positive @ wins) * weight_negative).sum(1) / np.maximum(total, 1))


def with_interval(values: Array, signed: bool = False) -> str:
    """Value on the test set itself and the interval of the resamples, where there is one."""
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    sign = "+" if signed else ""
    if low == high:
        return f"{values[0]:{sign}.3f}"
    return f"{values[0]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def difference(own: Array, their: Array) -> Array:
    """``own`` minus ``their`` (one row per seed): first the means, then each resample against one seed at random."""
    if np.ptp(own) == 0:  # measured once, without resamples
        return own - their.mean(0)
    drawn = np.random.default_rng(0).integers(len(their), size=len(own))
    change = own - their[drawn, np.arange(len(own))]
    change[0] = own[0] - their[:, 0].mean()
    return np.asarray(change)


def with_spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


@dataclass
class Table:
    """Rows of one representation: its measures for the pretrained model and for each untrained one."""

    measures: tuple[str, ...]
    rows: list[str] = field(default_factory=list)

    def add(self, title: str, found: dict[str, list[Array]]) -> None:
        """Rows from ``{"pretrained": [measure, ...], "untrained 0": [...], ...}``, each measure over resamples."""
        others = [values for name, values in found.items() if name.startswith("untrained")]
        for name, values in found.items():
            if not name.startswith("untrained"):
                self._row(title, name, [with_interval(value) for value in values])
        if others:
            spread = [with_spread([float(values[i][0]) for values in others]) for i in range(len(self.measures))]
            self._row(title, f"untrained, {len(others)} seeds", spread)
        if others and "pretrained" in found:
            pairs = zip(found["pretrained"], zip(*others, strict=True), strict=True)
            self._row(
                title, "difference", [with_interval(difference(own, np.array(their)), True) for own, their in pairs]
            )

    def _row(self, title: str, name: str, cells: list[str]) -> None:
        self.rows.append(f"| {title} | {name} | " + " | ".join(cells) + " |")

    def text(self) -> str:
        """The table in Markdown."""
        head = "| input | encoder | " + " | ".join(self.measures) + " |"
        return "\n".join([head, "|---|---|" + "---|" * len(self.measures), *self.rows])


# --- (a) pneumonia_mnist ----------------------------------------------------------------------------------------------


@dataclass
class Labelled:
    """One split: images as stored (0..1) and prepared, with labels."""

    raw: Tensor
    prepared: Tensor
    labels: Array


def pneumonia_splits(size: int, limit: int | None) -> dict[str, Labelled]:
    """Intensities scaled as in the package (percentiles .5-99.5 of each image), then resized (bilinear) to ``size``."""
    scale, splits = ModalityIntensity(), {}
    with np.load(SHARED / "pneumonia_mnist" / "pneumoniamnist_dev.npz") as archive:
        for split in ("train", "val", "test"):
            raw = torch.from_numpy(archive[f"{split}_images"][:limit]).float()
            scaled = torch.stack([scale(image, "XR") for image in raw])[:, None]
            prepared = F.interpolate(scaled, size=(size, size), mode="bilinear", antialias=True)
            splits[split] = Labelled(raw[:, None] / 255, prepared, archive[f"{split}_labels"][:limit].ravel())
    return splits


def logistic(inverse_penalty: float, scaled: bool = True) -> Any:
    """The linear probe: logistic regression, on standardised features or on features as they are."""
    model = LogisticRegression(C=inverse_penalty, max_iter=3000)
    return make_pipeline(StandardScaler(), model) if scaled else model


def linear_scores(train: Array, labels: Array, check: Array, check_labels: Array, test: Array) -> Array:
    """Probability of class 1 for the test rows; the penalty is the best by AUC on the validation rows."""
    fitted = [logistic(value).fit(train, labels) for value in PENALTIES]
    areas = [roc_auc_score(check_labels, model.predict_proba(check)[:, 1]) for model in fitted]
    scores: Array = fitted[int(np.argmax(areas))].predict_proba(test)[:, 1]
    return scores


def knn_scores(train: Array, labels: Array, test: Array) -> Array:
    """Share of the vote for class 1, by the package's vote (:func:`knn_predict` gives the winner only)."""
    keys, rows = (F.normalize(torch.from_numpy(part).float(), dim=1) for part in (train, test))
    nearest, index = (rows @ keys.T).topk(NEIGHBOURS, dim=1)
    share = (nearest.double() / TEMPERATURE).softmax(1)
    scores: Array = (share * torch.from_numpy(labels)[index]).sum(1).numpy()
    winner = knn_predict(train, labels, test, num_neighbours=NEIGHBOURS, temperature=TEMPERATURE)
    assert np.mean((scores > 0.5) == winner) > 0.999, "the vote must be the package's"
    return scores


def probe(splits: dict[str, Labelled], rows: dict[str, Array], bootstrap: Bootstrap) -> list[Array]:
    """kNN accuracy and AUC, linear accuracy and AUC over resamples."""
    labels = {name: split.labels for name, split in splits.items()}
    scores = (
        knn_scores(rows["train"], labels["train"], rows["test"]),
        linear_scores(rows["train"], labels["train"], rows["val"], labels["val"], rows["test"]),
    )
    truth, found = labels["test"], []
    for values in scores:
        found += [bootstrap.mean((values > 0.5) == truth), bootstrap.auc(values, truth)]
    return found


def bench_pneumonia(models: Sequence[Model], size: int, seed: int, limit: int | None) -> str:
    """The table of question (a)."""
    splits = pneumonia_splits(size, limit)
    truth = splits["test"].labels
    bootstrap = Bootstrap(len(truth), seed)
    table = Table(("kNN accuracy", "kNN AUC", "linear accuracy", "linear AUC"))
    pixels = {name: split.raw.flatten(1).double().numpy() for name, split in splits.items()}
    published = logistic(0.05, scaled=False).fit(pixels["train"], splits["train"].labels)
    scores = published.predict_proba(pixels["test"])[:, 1]
    cells = [with_interval(bootstrap.mean((scores > 0.5) == truth)), with_interval(bootstrap.auc(scores, truth))]
    stored = "pixels 28 x 28 as stored"
    table.rows.append(f"| {stored} | none; unscaled, C .05: the floor given for this set | | | {' | '.join(cells)} |")
    table.add(stored, {"none": probe(splits, pixels, bootstrap)})
    found: dict[str, dict[str, list[Array]]] = {"features": {}, "embedding": {}}
    for model in models:
        encoded = {name: encode(model.encoder, split.prepared) for name, split in splits.items()}
        for place, kind in enumerate(found):
            rows = {name: pair[place].double().numpy() for name, pair in encoded.items()}
            found[kind][model.name] = probe(splits, rows, bootstrap)
    for kind, values in found.items():
        table.add(kind, values)
    counts = ", ".join(f"{name} {len(split.labels)}" for name, split in splits.items())
    return (
        f"pneumonia_mnist ({counts}; largest class of the test split {max(np.mean(truth), 1 - np.mean(truth)):.3f}); "
        f"percentile scaling, then 28 to {size} px, bilinear\n\n{table.text()}"
    )


# --- (b) dataset identity ---------------------------------------------------------------------------------------------


@dataclass
class Prepared:
    """The pretraining list: images, and evenly spaced slices of every volume."""

    images: Tensor
    image_rows: list[dict[str, Any]]
    volumes: list[Tensor]
    positions: list[Tensor]
    volume_rows: list[dict[str, Any]]


def prepare_list(preprocessing: dict[str, Any], limit: int | None) -> Prepared:
    """Read the list once for all encoders; a volume keeps the middles of ``num_slices`` equal parts."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "real.json")
        rows = load_datalist(Path(folder) / "real.json")
    spread = slice(None, None, 1 if limit is None else max(1, len(rows.volumes) // limit))
    images = ClusterImageDataset(rows.images[spread], image_preprocessing(**{"pad": True} | preprocessing["image"]))
    volumes = VolumeDataset(rows.volumes[spread], volume_preprocessing(**preprocessing["volume"]))
    kept, positions = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pictures = torch.stack([_plain(images[number][Keys.IMAGE])[:1] for number in range(len(images))])
        for number in range(len(volumes)):
            volume = volumes[number][Keys.IMAGE]
            count = volume.shape[-1]
            wanted = min(preprocessing["num_slices"], count)
            index = ((torch.arange(wanted) + 0.5) * count / wanted).long()
            kept.append(_plain(volume)[:1, ..., index].movedim(-1, 0).contiguous())
            positions.append(slice_positions(volume.affine, 2, count)[index].float())
    return Prepared(pictures, list(images.rows), kept, positions, list(volumes.rows))


def _plain(value: Any) -> Tensor:
    tensor: Tensor = value.as_tensor() if hasattr(value, "as_tensor") else torch.as_tensor(value)
    return tensor


def thumbnails(slices: Tensor, side: int = 16) -> Tensor:
    """Plain pixels as the reference's features."""
    return F.interpolate(slices, size=(side, side), mode="bilinear", antialias=True).flatten(1)


@torch.inference_mode()
def levels_of(data: Prepared, model: Model | None) -> dict[str, Array]:
    """Embeddings of images, slices and volumes; without a model, thumbnails and their mean."""
    counts = [len(volume) for volume in data.volumes]
    stacked = torch.cat(data.volumes)
    if model is None:
        slices = thumbnails(stacked)
        volumes = torch.stack([part.mean(0) for part in slices.split(counts)])
        parts = {"image": thumbnails(data.images), "slice": slices, "volume": volumes}
        return {name: (part - part.mean(0)).numpy() for name, part in parts.items()}
    embedding = encode(model.encoder, stacked)[1]
    features, images = encode(model.encoder, data.images)
    split = embedding.split(counts)
    means = torch.stack([F.normalize(part.mean(0), dim=0) for part in split])
    found = {"image": images, "image, features": features, "slice": embedding, "volume, mean of slices": means}
    if model.aggregator is not None:
        pairs = zip(split, data.positions, strict=True)
        found["volume"] = torch.cat([model.aggregator(part[None], None, mm[None])[1] for part, mm in pairs])
    return {name: part.numpy() for name, part in found.items()}


def identity(rows: Array, names: Array, subjects: Array, bootstrap: Bootstrap, asked: Array, seed: int) -> list[Array]:
    """Leave-one-subject-out accuracy and balanced accuracy over resamples; mean NMI and ARI of k-means' five starts."""
    tensor = torch.from_numpy(rows)
    predicted = knn_predict(tensor, names, num_neighbours=NEIGHBOURS, groups=subjects)
    hits = (predicted == names)[asked].astype(float)
    unit, found = F.normalize(tensor, dim=1), []
    for start in range(5):
        generator = torch.Generator().manual_seed(seed + start)
        clusters = spherical_kmeans(unit, len(np.unique(names)), 30, generator=generator)[1]
        found.append(clustering_agreement(clusters, names))
    means = [np.mean([agreement[key] for agreement in found]) for key in ("nmi", "ari")]
    constant = [np.full(len(bootstrap.counts), value) for value in means]
    return [bootstrap.mean(hits), bootstrap.recall(hits, names[asked]), *constant]


def bench_identity(models: Sequence[Model], preprocessing: dict[str, Any], seed: int, limit: int | None) -> str:
    """The table of question (b)."""
    data = prepare_list(preprocessing, limit)
    counts = [len(volume) for volume in data.volumes]
    volume_columns = [np.array([row[key] for row in data.volume_rows]) for key in ("dataset", "subject")]
    columns = {
        "image": [np.array([row[key] for row in data.image_rows]) for key in ("dataset", "subject")],
        "slice": [column.repeat(counts) for column in volume_columns],
        "volume": volume_columns,
    }
    table = Table(("kNN accuracy", "kNN balanced accuracy", "NMI", "ARI"))
    found: dict[str, dict[str, list[Array]]] = {}
    notes = []
    settings = {level: _askable(*columns[level]) for level in columns}
    for level, asked in settings.items():
        names, subjects = columns[level]
        kept, number = np.unique(names[asked], return_counts=True)
        text = ", ".join(f"{name} {many}" for name, many in zip(kept, number, strict=True))
        notes.append(f"{level}: {text} of {len(np.unique(subjects[asked]))} subjects")
    for model in (None, *models):
        for title, rows in levels_of(data, model).items():
            level = title.split(",")[0]
            names, subjects = columns[level]
            asked = settings[level]
            bootstrap = Bootstrap(int(asked.sum()), seed, subjects[asked])
            measured = identity(rows, names, subjects, bootstrap, asked, seed)
            found.setdefault(title, {})["pixels 16 x 16" if model is None else model.name] = measured
    for title, values in sorted(found.items()):
        table.add(title, values)
    return (
        "Dataset identity, leave one subject out, k = 20 (sets of a single subject vote but are not asked). "
        + "; ".join(notes)
        + f"\n\n{table.text()}"
    )


def _askable(names: Array, subjects: Array) -> Array:
    """Rows whose data set has another subject that could vote for it."""
    many = {name for name in np.unique(names) if len(np.unique(subjects[names == name])) > 1}
    return np.array([name in many for name in names])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Probes of a pretrained encoder on real data")
    parser.add_argument("weights", help="run folder or exported encoder.safetensors")
    parser.add_argument("--untrained", type=int, nargs="?", const=3, default=3, help="number of untrained seeds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64, help="side of the pneumonia images in pixels")
    parser.add_argument("--limit", type=int, help="images per split and volumes, for a quick trial")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="Markdown file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models, preprocessing = load_models(arguments.weights, arguments.untrained, arguments.seed)
    parts: list[Callable[[], str]] = [
        lambda: bench_pneumonia(models, arguments.size, arguments.seed, arguments.limit),
        lambda: bench_identity(models, preprocessing, arguments.seed, arguments.limit),
    ]
    texts = []
    for part in parts:
        texts.append(part())
        print(texts[-1], end="\n\n", flush=True)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
