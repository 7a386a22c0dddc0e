"""Call a function for a module right after it was imported, without importing it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class ImportHook:
    """While installed, calls ``on_import(name, module)`` for each of ``names``: at once for imported modules, and for
    the others after they have been executed. Nothing raised in ``on_import`` reaches the importer."""

    def __init__(self, names: Sequence[str], on_import: Callable[[str, ModuleType], None]) -> None:
        self._waiting = set(names)
        self._on_import = on_import
        self._searching = False  # one flag is enough: Python calls finders under a lock of the process

    def install(self) -> None:
        for name in sorted(self._waiting):
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            # A module in the middle of its own import may still lack what is patched.
            if module is not None and not getattr(spec, "_initializing", False):
                self._notify(name, module)
        if self._waiting:
            sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module; Python calls this for each import of a new module."""
        if name not in self._waiting or self._searching:
            return None
        self._searching = True
        try:
            for finder in list(sys.meta_path):
                find: Any = getattr(finder, "find_spec", None)
                if finder is self or find is None:
                    continue
                spec: ModuleSpec | None = find(name, path, target)
                if spec is not None:
                    self._wrap_loader(name, spec.loader)
                    return spec
            return None
        finally:
            self._searching = False

    def _wrap_loader(self, name: str, loader: Any) -> None:
        """Make ``loader`` call ``_notify`` after it has executed the module. The loader stays, since its type matters
        to others."""
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return

        def exec_module(module: ModuleType) -> None:
            try:
                del loader.exec_module
            except AttributeError:
                pass
            execute(module)
            self._notify(name, module)

        try:
            loader.exec_module = exec_module
        except AttributeError:  # a loader that cannot be changed: its modules are not instrumented
            pass

    def _notify(self, name: str, module: ModuleType) -> None:
        self._waiting.discard(name)
        try:
            self._on_import(name, module)
        except Exception:
            pass
