# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Joint self-supervised learning on 2D images and 3D volumes by contrastive clustering, as a MONAI extension.

Importing this package imports neither torch nor MONAI. It makes its modules known to MONAI's configuration parser,
so that
``{"_target_": "SwappedPredictionLoss"}`` resolves in any configuration once ``monai_cluster`` is imported.
"""

from __future__ import annotations

from ._lazy import register_lazily
from .version import __version__

__all__ = ["__version__"]

register_lazily(__name__, __path__, skip=("cli", "testing", "__main__"))
