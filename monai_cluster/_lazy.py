# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Exports that load on first use, so that importing the package costs next to nothing.

MONAI's configuration parser finds a class by its short name in every module *already imported* whose name starts with
``monai``. ``register_lazily`` therefore puts the package's modules into ``sys.modules`` without executing them: the
parser
sees their names, and a module's body runs when its first attribute is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

__all__ = ["attach", "register_lazily"]


def attach(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Build a package's ``__getattr__``, ``__dir__`` and ``__all__`` from ``{submodule: names}``."""
    home = {name: module for module, names in exports.items() for name in names}
    names = sorted(home)

    def __getattr__(name: str) -> Any:
        if name in home:
            return getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}")

    def __dir__() -> list[str]:
        return names

    return __getattr__, __dir__, names


# What the import system and inspect.getmodule (which walks over every module) ask a module without wanting its
# contents.
_IDENTITY = frozenset({"__class__", "__file__", "__loader__", "__name__", "__package__", "__spec__"})
_LOADING = threading.RLock()


class _DeferredModule(ModuleType):
    """A module that runs its body when somebody first asks for something inside it."""

    def __getattribute__(self, name: str) -> Any:
        if name in _IDENTITY:
            return super().__getattribute__(name)
        with _LOADING:
            if type(self) is _DeferredModule:
                self.__class__ = ModuleType  # type: ignore[assignment]  # first, since the body may import itself
                try:
                    self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
                except BaseException:
                    self.__class__ = _DeferredModule  # the next attempt shall say the same
                    raise
        return getattr(self, name)


def register_lazily(package: str, path: Sequence[str], skip: Sequence[str] = ()) -> None:
    """Put every module below ``package`` into ``sys.modules`` without running its body.

    Args:
        package: dotted name of the package.
        path: the package's ``__path__``.
        skip: last parts of module names that are left alone (command line, tests' adapters).
    """
    for info in pkgutil.iter_modules(path):
        name = f"{package}.{info.name}"
        if info.name in skip or (name in sys.modules and not info.ispkg):
            continue
        if info.ispkg:
            register_lazily(name, importlib.import_module(name).__path__, skip)
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:  # a namespace or broken entry: the ordinary import will say so
            continue
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _DeferredModule
        sys.modules[name] = module
        setattr(sys.modules[package], info.name, module)
