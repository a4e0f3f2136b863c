# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Where the bundles lie: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import monai_cluster
from monai_cluster.apps.suggestions import did_you_mean

__all__ = ["bundle_root", "config_files"]


def bundle_root(name: str) -> Path:
    """The folder of a bundle that comes with the package.

    Raises:
        FileNotFoundError: if there is none of this name.
    """
    package = Path(monai_cluster.__file__).resolve().parent
    for bundles in (package / "_bundles", package.parent / "bundles"):
        if (bundles / name / "configs" / "metadata.json").is_file():
            return bundles / name
    raise FileNotFoundError(
        f"the bundle {name!r} was looked for in the installed package and beside the checkout and is in neither: "
        "install monai_cluster from its repository or wheel."
    )


def config_files(name: str, configs: Sequence[str]) -> list[str]:
    """Paths of a bundle's configuration files, the later ones overriding the earlier.

    Raises:
        ValueError: for a name the bundle does not have, with the nearest one.
    """
    folder = bundle_root(name) / "configs"
    known = sorted(path.stem for path in folder.glob("*.json") if path.stem != "metadata")
    for config in configs:
        if config not in known:
            raise ValueError(f"bundle {name!r} has no configuration {config!r}{did_you_mean(config, known)}")
    return [str(folder / f"{config}.json") for config in configs]
