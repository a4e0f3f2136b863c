# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What really went wrong in a bundle: MONAI wraps every error of a configuration in others that only say where."""

from __future__ import annotations

__all__ = ["own_error"]

WRAPPERS = ("Failed to evaluate", "Failed to instantiate component")


def own_error(error: BaseException) -> BaseException:
    """The outermost error that is not one of MONAI's wrappers.

    Not the innermost: an error of ours may say more than its cause, such as the name of the sample that failed.
    """
    while str(error).startswith(WRAPPERS) and error.__cause__ is not None:
        error = error.__cause__
    return error
