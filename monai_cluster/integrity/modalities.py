# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Names of modalities that may be shown: a list's free text could hold anything."""

from __future__ import annotations

import re

__all__ = ["known_modality"]

WORDS = re.compile(
    # DICOM's codes and the usual names
    "CT|MRI?|PT|PET|XR|CR|DX|DR|RF|XA|US|MG|NM|ST|OT|OCT|OP|OPT|ES|GM|SM|IO|PX|BMD|DXA|XRAY|CBCT|CTA|MRA|"
    # MR contrasts and CT phases
    "T1|T1W|T1C|T1CE|T1GD|T2|T2W|T2STAR|FLAIR|PD|PDW|DWI|ADC|DTI|SWI|ASL|BOLD|CINE|LGE|DCE|DIXON|STIR|MPRAGE|SPGR|"
    "TOF|FMRI|GRE|SE|TSE|NATIVE|ARTERIAL|VENOUS|PORTAL|DELAYED|LOWDOSE|CONTRAST|PRE|POST|AP|PA|LAT"
)


def known_modality(text: object) -> str | None:
    """The words of a modality in capitals, where every one of them is a usual one; else None."""
    words = re.findall(r"[A-Z0-9]+", text.upper()) if isinstance(text, str) else []
    return " ".join(words) if words and all(WORDS.fullmatch(word) for word in words) else None
