# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The rules of the house: who may import whom, how light an import is, which names are forbidden."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import monai_cluster

PACKAGE = Path(monai_cluster.__file__).parent
FORBIDDEN_NAMES = {"utils.py", "base.py", "common.py", "helpers.py"}

# A room may import rooms of lower number only, and never its equals.
LEVEL = {
    "keys": 0, "outputs": 0, "version": 0, "_lazy": 0, "clustering": 1, "integrity": 1,
    "networks": 2, "losses": 2, "transforms": 2, "optimizers": 2, "data": 3,
    "metrics": 3, "handlers": 4, "engines": 5, "weights": 5, "apps": 6, "testing": 7, "cli": 7, "__main__": 8,
}  # fmt: skip

# MONAI's FlexibleUNet hands its encoder a path, so that constructor must load weights itself.
ALLOWED = {("networks/flexible_unet.py", "weights")}


def imported_rooms(file: Path) -> set[str]:
    """First parts of the monai_cluster modules that a file imports anywhere."""
    found: set[str] = set()
    package = ("monai_cluster", *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            names = [".".join(part for part in (start, node.module) if part)]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("monai_cluster.")}
    return found


def test_imports_point_downwards_between_rooms() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in LEVEL, f"{room} has no place in the order of rooms: give it one here"
        wrong += [
            f"{file.relative_to(PACKAGE)} imports {other}"
            for other in imported_rooms(file) - {room}
            if LEVEL[other] >= LEVEL[room] and (str(file.relative_to(PACKAGE)), other) not in ALLOWED
        ]
    assert wrong == []


def test_no_module_is_long_or_has_a_forbidden_name() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert [str(file) for file in files if file.name in FORBIDDEN_NAMES] == []
    assert [str(file) for file in files if len(file.read_text().splitlines()) > 300] == []


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_neither_torch_nor_monai() -> None:
    printed = run_python(
        "import sys, monai_cluster; print([m for m in ('torch', 'monai', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    assert printed.strip() == "[]"


def test_short_names_resolve_in_a_monai_configuration_after_one_import() -> None:
    printed = run_python(
        "import monai_cluster\n"
        "from monai.bundle import ConfigParser\n"
        "loss = {'_target_': 'SwappedPredictionLoss', 'num_prototypes': 5, 'embedding_dim': 4}\n"
        "parser = ConfigParser({'loss': loss, 'pool': {'_target_': 'MeanPool'}})\n"
        "print(type(parser.get_parsed_content('loss')).__module__, type(parser.get_parsed_content('pool')).__module__)"
    )
    assert printed.split() == ["monai_cluster.losses.swapped_prediction", "monai_cluster.networks.attention_pooling"]


def test_no_public_class_takes_the_name_of_a_monai_class() -> None:
    printed = run_python(
        "import monai, inspect, sys\n"
        "taken = {n for m in list(sys.modules.values()) if m and m.__name__.split('.')[0] == 'monai'\n"
        "         for n, o in vars(m).items() if inspect.isclass(o) and o.__module__.startswith('monai.')}\n"
        "import importlib, pkgutil, monai_cluster\n"
        "for info in pkgutil.walk_packages(monai_cluster.__path__, 'monai_cluster.'):\n"
        "    if info.name.endswith('__main__'): continue\n"
        "    m = importlib.import_module(info.name)\n"
        "    print(*[n for n, o in vars(m).items() if inspect.isclass(o) and o.__module__ == info.name\n"
        "            and n in taken and not n.startswith('_')], end=' ')"
    )
    assert printed.split() == []
