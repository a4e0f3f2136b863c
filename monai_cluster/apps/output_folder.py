# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The fixed layout of a run's folder, and the refusal to write over an earlier run."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch.distributed as dist

__all__ = ["OutputFolder", "find_checkpoint", "prepare_output"]

LOG_HANDLER = "monai_cluster train.log"


class OutputFolder:
    """Names inside ``out/``.

    ``checkpoints/`` training states · ``exported/`` encoder and aggregator · ``pictures/`` PNG files ·
    ``metrics.jsonl`` one line per epoch · ``train.log`` · ``config.json`` what ran · ``tensorboard/`` event files.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.checkpoints = self.root / "checkpoints"
        self.exported = self.root / "exported"
        self.pictures = self.root / "pictures"
        self.tensorboard = self.root / "tensorboard"
        self.metrics = self.root / "metrics.jsonl"
        self.log = self.root / "train.log"
        self.config = self.root / "config.json"

    @property
    def encoder(self) -> Path:
        """The exported encoder and aggregator; its JSON side file lies beside it."""
        return self.exported / "encoder.safetensors"

    @property
    def model(self) -> Path:
        """The exported fine-tuned model; its JSON side file lies beside it."""
        return self.exported / "model.safetensors"


def is_main_process() -> bool:
    """True on rank 0, and where nothing is distributed."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def prepare_output(output_dir: str | Path, resume: bool = False) -> str:
    """Make a run's folders, or refuse where a run already lies.

    Args:
        output_dir: the run's folder.
        resume: continue the run that lies there.

    Returns:
        The folder as text, for use in configurations.

    Raises:
        FileExistsError: if the folder already holds a run and ``resume`` is off.
        FileNotFoundError: if ``resume`` is on and there is no checkpoint to resume from.
    """
    folder = OutputFolder(output_dir)
    if resume:
        find_checkpoint(folder.checkpoints)
    elif is_main_process():
        traces = [path for path in (folder.metrics, folder.checkpoints, folder.encoder, folder.model) if path.exists()]
        if any(path.is_file() or any(path.iterdir()) for path in traces):
            raise FileExistsError(
                f"{folder.root} already holds a run ({', '.join(path.name for path in traces)}): choose another output "
                "folder, continue it with resume, or delete it yourself."
            )
    for path in (folder.checkpoints, folder.exported, folder.pictures):
        path.mkdir(parents=True, exist_ok=True)
    if is_main_process():
        _start_log(folder.log)
    return str(folder.root)


def _start_log(path: Path) -> None:
    """What the package says goes to the terminal, unless somebody configured that already, and to ``train.log``."""
    stop_log()
    logger = logging.getLogger("monai_cluster")
    logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        terminal = logging.StreamHandler()
        terminal.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(terminal)
        logger.propagate = False  # MONAI's detection code gives the root logger a handler, which would say all again
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    file.set_name(LOG_HANDLER)
    logger.addHandler(file)


def stop_log() -> None:
    """Close ``train.log`` of the run before."""
    logger = logging.getLogger("monai_cluster")
    for handler in [item for item in logger.handlers if item.get_name() == LOG_HANDLER]:
        logger.removeHandler(handler)
        handler.close()


def find_checkpoint(folder: str | Path) -> str:
    """The newest training state in a folder, by its epoch.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = {
        int(match.group(1)): path
        for path in Path(folder).glob("*.pt")
        if (match := re.search(r"epoch=(\d+)", path.name))
    }
    if not found:
        raise FileNotFoundError(f"nothing to resume: no checkpoint (*epoch=N.pt) in {folder}; start without resume.")
    return str(found[max(found)])
