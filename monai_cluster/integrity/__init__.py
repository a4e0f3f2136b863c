# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Whether an input can be trusted: files, series, pairs, lists, weights and bundles, checked without being believed.

Needs neither torch nor MONAI, so that the worker processes of a check start in a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .archives import inspect_archive as inspect_archive
    from .bundle_configs import inspect_bundle as inspect_bundle
    from .dicom_series import inspect_series as inspect_series
    from .findings import CODES as CODES
    from .findings import Facts as Facts
    from .findings import Finding as Finding
    from .findings import InputRefusedError as InputRefusedError
    from .findings import Inspection as Inspection
    from .items import inspect_item as inspect_item
    from .limits import Limits as Limits
    from .lists import inspect_datalist as inspect_datalist
    from .pairs import inspect_pair as inspect_pair
    from .weights_files import inspect_weights as inspect_weights

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "archives": ["inspect_archive"],
        "bundle_configs": ["inspect_bundle"],
        "dicom_series": ["inspect_series"],
        "findings": ["CODES", "Facts", "Finding", "InputRefusedError", "Inspection"],
        "items": ["inspect_item"],
        "limits": ["Limits"],
        "lists": ["inspect_datalist"],
        "pairs": ["inspect_pair"],
        "weights_files": ["inspect_weights"],
    },
)
