# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""``python -m monai_cluster`` is the command ``monai-cluster``."""

from __future__ import annotations

import sys

from monai_cluster.cli import main

sys.exit(main())
