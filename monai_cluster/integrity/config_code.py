# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What a MONAI configuration would run: classes it names, expressions it evaluates, files its macros read."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from .findings import Inspection

__all__ = ["check_code", "entries", "macro_file"]

# whole packages are no answer: MONAI exports a runner of commands, torch a reader of pickles
PREFIXES = (
    "monai.networks.", "monai.transforms.", "monai.losses.", "monai.metrics.", "monai.inferers.", "monai.optimizers.",
    "torch.nn.", "torch.optim.", "monai_cluster.networks.", "monai_cluster.transforms.", "monai_cluster.losses.",
    "monai_cluster.metrics.", "monai_cluster.optimizers.",
)  # fmt: skip
CLASSES = frozenset(
    [
        "monai.data.Dataset",
        "monai.data.CacheDataset",
        "monai.data.DataLoader",
        "monai.data.ThreadDataLoader",
        "monai.engines.SupervisedTrainer",
        "monai.engines.SupervisedEvaluator",
        "monai.handlers.StatsHandler",
        "monai.handlers.LrScheduleHandler",
        "monai.handlers.ValidationHandler",
        "monai.handlers.MeanDice",
        "monai.handlers.TensorBoardStatsHandler",
        "monai.handlers.CheckpointSaver",
        "torch.utils.data.DataLoader",
        "torch.utils.data.Dataset",
        "torch.device",
    ]
)
CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9_]*")
MODULE_NAME = re.compile(r"[a-z][a-z0-9_]*")
# a module's own imports are its attributes: torch.nn.x.subprocess.Popen
FOREIGN = sys.stdlib_module_names | {
    "torch",
    "monai",
    "numpy",
    "np",
    "ignite",
    "yaml",
    "pickle5",
    "cloudpickle",
    "dill",
}
OWN_NAMES = ("array", "monai.transforms.io", "monai.transforms.signal")  # modules that are called as Python's own are
# these classes read pickles or run what they are given by name
REFUSED = re.compile(r"(Lambda|Checkpoint|Persist|TorchScript|Pickle|Popen|Process|NumpyReader)")
MACRO = re.compile(r"(.*\.(?:json|yaml|yml))(?=(?:::|#).*$|$)", re.IGNORECASE)
TRUST = "refused while the bundle is untrusted; read it, and pass trusted=True where its authors are"


def entries(content: Any) -> Iterator[tuple[str | None, Any]]:
    """Every key and value of nested objects and lists, the outer ones first."""
    stack: list[tuple[str | None, Any]] = [(None, content)]
    while stack:
        key, value = stack.pop()
        yield key, value
        if isinstance(value, dict):
            stack += [(str(name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            stack += [(key, inner) for inner in value]


def check_code(content: Any, inspection: Inspection) -> None:
    """Add findings about targets that are not on the list, and about expressions."""
    expressions = targets = 0
    for key, value in entries(content):
        expressions += isinstance(value, str) and value.lstrip().startswith("$")
        targets += key is not None and key.lstrip("+").endswith("_target_") and not _is_allowed(value)
    if targets:
        rule = "an untrusted configuration may build known classes of networks, transforms, losses and optimizers only"
        inspection.reject("TARGET", rule, f"{targets} targets that are not on the allow-list", TRUST)
    if expressions:
        rule = "an untrusted configuration must not run code"
        inspection.reject("EVAL", rule, f"{expressions} expressions (values that begin with a dollar sign)", TRUST)


def _is_allowed(target: Any) -> bool:
    if not isinstance(target, str):
        return False
    if target in CLASSES:
        return True
    prefix = next((one for one in PREFIXES if target.startswith(one)), None)
    if prefix is None:
        return False
    *modules, name = target.removeprefix(prefix).split(".")
    if modules and prefix + modules[0] in OWN_NAMES:
        modules = modules[1:]
    plain = all(MODULE_NAME.fullmatch(one) and (one in OWN_NAMES or one not in FOREIGN) for one in modules)
    return plain and bool(CLASS_NAME.fullmatch(name)) and not REFUSED.search(name)


def macro_file(value: Any) -> str | None:
    """The file that a macro (``%file::key``) reads; None for other values and for macros within the same file."""
    if not isinstance(value, str) or not value.startswith("%"):
        return None
    match = MACRO.match(value[1:])
    return match.group(1) if match else None
