# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What really went wrong in a bundle: MONAI wraps every error of a configuration in others that only say where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["own_error", "own_errors"]

WRAPPERS = ("Failed to evaluate", "Failed to instantiate component")


def own_error(error: BaseException) -> BaseException:
    """The outermost error that is not one of MONAI's wrappers.

    Not the innermost: an error of ours may say more than its cause, such as the name of the sample that failed.
    """
    while str(error).startswith(WRAPPERS) and error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise what :func:`own_error` finds instead of MONAI's wrapper."""
    try:
        yield
    except RuntimeError as error:
        own = own_error(error)
        raise own from own.__cause__
