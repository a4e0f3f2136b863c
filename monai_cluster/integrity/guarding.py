# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The last net around a check: whatever a reading library raises becomes a finding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .findings import InputRefusedError, Inspection
from .silence import hushed

__all__ = ["guarded"]


@contextmanager
def guarded(inspection: Inspection) -> Iterator[None]:
    """Turn whatever is raised inside into findings: nothing that a file holds may end a check."""
    try:
        with hushed():
            yield
    except InputRefusedError as error:
        inspection.findings.extend(error.findings)
    except MemoryError:
        rule = "an item must fit into memory"
        inspection.reject("MEMORY", rule, "an allocation that failed", "raise the limit, or take it off the list")
    except Exception as error:  # libraries raise any type for malformed input
        found = f"a failure of the reading library ({type(error).__name__})"
        inspection.reject("UNREADABLE", "an item must be readable", found, "export the item again")
