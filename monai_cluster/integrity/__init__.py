# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Whether an input can be trusted: files, series, pairs, lists, weights and bundles, checked without being believed.

Needs neither torch nor MONAI, so that the worker processes of a check start in a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .findings import CODES as CODES
    from .findings import Facts as Facts
    from .findings import Finding as Finding
    from .findings import InputRefusedError as InputRefusedError
    from .findings import Inspection as Inspection
    from .limits import Limits as Limits

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "findings": ["CODES", "Facts", "Finding", "InputRefusedError", "Inspection"],
        "limits": ["Limits"],
    },
)
