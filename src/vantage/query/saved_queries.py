"""Queries with names, for everybody who uses this Vantage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vantage.core.clock import Clock
from vantage.core.errors import InputError, NotFoundError
from vantage.core.sample import text_problem
from vantage.core.saved_query import SavedQuery
from vantage.storage.metadata.ports import MetadataStore

NAME_LENGTH_MAX: Final = 100
TEXT_LENGTH_MAX: Final = 16_384


class SavedQueries:
    """Lists, saves and removes them. Every method raises StoreUnavailable."""

    def __init__(self, metadata: MetadataStore, clock: Clock) -> None:
        self._metadata = metadata
        self._clock = clock

    async def all_queries(self) -> Sequence[SavedQuery]:
        """Return them by name."""
        return await self._metadata.saved_queries()

    async def save(self, name: str, text: str, *, actor: str) -> SavedQuery:
        """Save a query, in place of the one of this name. Its text need not be valid: it may be a draft. Raises
        InputError, and ConflictError when there are too many."""
        name = name.strip()
        if problem := "is empty" if not name else text_problem(name, NAME_LENGTH_MAX):
            raise InputError(problem, field="name")
        if "/" in name:  # it is a segment of an address
            raise InputError("may not contain a slash", field="name")
        if not text.strip():
            raise InputError("is empty", field="query")
        if problem := text_problem(text, TEXT_LENGTH_MAX):
            raise InputError(problem, field="query")
        query = SavedQuery(name, text, actor, self._clock.now_ms())
        await self._metadata.save_query(query)
        return query

    async def remove(self, name: str, *, actor: str) -> None:
        """Remove a query. Raises NotFoundError."""
        if not await self._metadata.remove_query(name, actor=actor):
            raise NotFoundError("no saved query has this name", field="name")
