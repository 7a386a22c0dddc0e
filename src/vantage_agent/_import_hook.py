"""Does something to a module right after it was imported, without importing it itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class ImportHook:
    """While installed, calls ``found(name, module)`` for each of ``names``: at once for those that are imported
    already, and for the others when they have been executed. Nothing raised in ``found`` reaches the importer."""

    def __init__(self, names: Sequence[str], found: Callable[[str, ModuleType], None]) -> None:
        self._waiting = set(names)
        self._found = found
        self._looking = False  # one flag is enough: Python asks finders under a lock of the whole process

    def install(self) -> None:
        for name in sorted(self._waiting):
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            # A module in the middle of its own import has not got yet what is looked for.
            if module is not None and not getattr(spec, "_initializing", False):
                self._tell(name, module)
        if self._waiting:
            sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """TimeseriesQuery by Python for each import of something new."""
        if name not in self._waiting or self._looking:
            return None
        self._looking = True
        try:
            for finder in list(sys.meta_path):
                find: Any = getattr(finder, "find_spec", None)
                if finder is self or find is None:
                    continue
                spec: ModuleSpec | None = find(name, path, target)
                if spec is not None:
                    self._follow(name, spec.loader)
                    return spec
            return None
        finally:
            self._looking = False

    def _follow(self, name: str, loader: Any) -> None:
        """Be called when ``loader`` has executed the module. The loader itself stays: others look at its type."""
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return

        def exec_module(module: ModuleType) -> None:
            try:
                del loader.exec_module
            except AttributeError:
                pass
            execute(module)
            self._tell(name, module)

        try:
            loader.exec_module = exec_module
        except AttributeError:  # a loader that is no instance of its own: its modules are left alone
            pass

    def _tell(self, name: str, module: ModuleType) -> None:
        self._waiting.discard(name)
        try:
            self._found(name, module)
        except Exception:
            pass
