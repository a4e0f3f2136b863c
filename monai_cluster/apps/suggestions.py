# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The end of an error message about a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``": did you mean 'epochs'?"`` where something is near, else the list of what there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f": did you mean {near[0]!r}?"
    return f"; there are: {', '.join(names)}." if names else "; there is none."
