# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which label map belongs to which image, by the layouts in use: ``imagesTr/labelsTr``, suffixes, BIDS."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from .walk import file_suffix

__all__ = ["bids_subject", "channel_of", "is_bids_derivative", "is_label_folder", "label_base", "pair_labels"]

LABEL_FOLDERS = ("label", "labels", "labelstr", "labelsts", "mask", "masks", "segmentation", "segmentations")
IMAGE_FOLDERS = ("image", "images", "imagestr", "imagests", "img", "imgs", "scans", "volumes")
LABEL_ENDINGS = ("_mask", "_masks", "_seg", "_dseg", "_label", "_labels", "_gt", "_segmentation", "-label", "-seg")
CHANNEL = re.compile(r"^(.+)_(\d{4})$")
SUBJECT = re.compile(r"(?:^|/)sub-([A-Za-z0-9]+)(?=[/_.]|$)")
ENTITY = re.compile(r"([A-Za-z]+)-([A-Za-z0-9]+)")
LABELS_OWN = ("desc", "label", "space", "res", "den", "atlas", "seg")  # BIDS entities that an image lacks


def is_label_folder(name: str) -> bool:
    """Whether a relative path leads through a folder of labels."""
    return any(part.lower() in LABEL_FOLDERS for part in _parts(name)[:-1])


def label_base(name: str) -> str | None:
    """The stem without the ending that marks a label map, or None where there is no such ending."""
    stem = _stem(name)
    ending = next((one for one in LABEL_ENDINGS if stem.lower().endswith(one) and len(stem) > len(one)), None)
    return None if ending is None else stem[: -len(ending)]


def bids_subject(name: str) -> str | None:
    """The ``XX`` of ``sub-XX`` in a relative path."""
    match = SUBJECT.search(name.replace(os.sep, "/"))
    return match.group(1) if match else None


def is_bids_derivative(name: str) -> bool:
    """Whether a relative path lies under the folder of processed copies of a BIDS tree."""
    return _parts(name)[0] in ("derivatives", "sourcedata", "code")


def channel_of(name: str) -> str | None:
    """Relative path without the channel number that nnU-Net appends (``case_0001.nii.gz``), in image folders only."""
    match = CHANNEL.match(_stem(name))
    folder = os.path.dirname(name)
    if match is None or os.path.basename(folder).lower() not in ("imagestr", "imagests"):
        return None
    return os.path.join(folder, match.group(1))


def pair_labels(images: Sequence[str], labels: Iterable[str]) -> dict[str, str]:
    """Find each label map's image.

    Args:
        images: relative paths (without channel number where there is one).
        labels: relative paths.

    Returns:
        image of each label; a label that fits none or several is left out, and so are several labels of one image.
    """
    by_key: dict[tuple[str, ...], list[str]] = {}
    by_subject: dict[str, list[str]] = {}
    for image in images:
        for key in {_image_key(image), _near_key(image)}:
            by_key.setdefault(key, []).append(image)
        subject = bids_subject(image)
        if subject is not None:
            by_subject.setdefault(subject, []).append(image)
    claims: dict[str, list[str]] = {}
    for label in labels:
        fitting: list[str] = next((by_key[key] for key in _label_keys(label) if key in by_key), [])
        fitting = fitting or _same_entities(label, by_subject.get(bids_subject(label) or "", []))
        if len(fitting) == 1:
            claims.setdefault(fitting[0], []).append(label)
    # several label maps of one image (raters, tissues): which one is meant cannot be guessed
    return {claiming[0]: image for image, claiming in claims.items() if len(claiming) == 1}


def _parts(name: str) -> list[str]:
    return name.replace(os.sep, "/").split("/")


def _stem(name: str) -> str:
    base = os.path.basename(name)
    suffix = file_suffix(name)
    return base[: -len(suffix)] if suffix and base.lower().endswith(suffix) else base


def _near_key(image: str) -> tuple[str, ...]:
    return ("beside", os.path.dirname(image), _stem(image))


def _image_key(image: str) -> tuple[str, ...]:
    """Folders with the last image folder named alike, and the stem."""
    return ("folders", *_folders(image, IMAGE_FOLDERS), _stem(image))


def _label_keys(label: str) -> list[tuple[str, ...]]:
    """What the image's key may be: same stem in the folder of images, or beside the label without its ending."""
    base = label_base(label)
    keys: list[tuple[str, ...]] = []
    if is_label_folder(label):
        folders = _folders(label, LABEL_FOLDERS)
        above = [part for part in folders if not part.startswith("<")]
        keys += [("folders", *where, stem) for where in (folders, above) for stem in (_stem(label), base) if stem]
    elif base:
        keys.append(("beside", os.path.dirname(label), base))
    return keys


def _folders(name: str, names: Sequence[str]) -> list[str]:
    """Folders of a path; the last that holds images or labels is replaced by the split that it ends on (Tr, Ts)."""
    parts = _parts(name)[:-1]
    for place in range(len(parts) - 1, -1, -1):
        if parts[place].lower() in names:
            ending = parts[place].lower()[-2:]
            parts[place] = f"<{ending if ending in ('tr', 'ts') else ''}>"
            break
    return parts


def _same_entities(label: str, images: Sequence[str]) -> list[str]:
    """Images whose name has every entity of the label's (session, run, …), but those that only labels have."""
    wanted = {pair for pair in ENTITY.findall(_stem(label)) if pair[0] not in LABELS_OWN}
    return [image for image in images if wanted and wanted <= set(ENTITY.findall(_stem(image)))]
