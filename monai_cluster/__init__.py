# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Joint self-supervised learning on 2D images and 3D volumes by contrastive clustering, as a MONAI extension."""

from __future__ import annotations

from .version import __version__

__all__ = ["__version__"]
