"""Wrap functions of other libraries, and restore them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MARK = "__vantage_agent__"
_INHERITED = object()


class Patches:
    """The wrapped functions, in order."""

    def __init__(self) -> None:
        self._wrapped: list[tuple[Any, str, Any, Any]] = []

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace ``owner.name`` by ``make(original)``. Do nothing if it is missing or wrapped."""
        original = getattr(owner, name, None)
        if original is None or getattr(original, _MARK, False):
            return
        before = vars(owner).get(name, _INHERITED)
        wrapper = functools.wraps(original)(make(original))
        setattr(wrapper, _MARK, True)
        setattr(owner, name, wrapper)
        self._wrapped.append((owner, name, before, wrapper))

    def undo(self) -> None:
        """Restore everything. A wrapper that somebody else has wrapped stays, and does nothing without an agent."""
        while self._wrapped:
            owner, name, before, wrapper = self._wrapped.pop()
            if vars(owner).get(name) is not wrapper:
                continue
            if before is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


def named_as(base: Any, ours: Any) -> type:
    """Give a subclass of a class that cannot be wrapped the names of its base, and return it."""
    ours.__name__, ours.__qualname__, ours.__module__ = base.__name__, base.__qualname__, base.__module__
    ours.__doc__ = base.__doc__
    subclass: type = ours
    return subclass
