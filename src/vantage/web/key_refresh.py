"""The loop that keeps the API keys in memory up to date."""

from __future__ import annotations

from typing import Final

from vantage.core.clock import Clock
from vantage.storage.ports import MetadataStore
from vantage.web.auth import Authenticator

INTERVAL_S: Final = 2.0


class KeyRefreshLoop:
    """Reads the keys again when the metadata has changed, even by another process."""

    name = "keys"

    def __init__(self, metadata: MetadataStore, authenticator: Authenticator, *, clock: Clock) -> None:
        self._metadata = metadata
        self._authenticator = authenticator
        self._clock = clock

    async def refresh(self) -> None:
        """Read the keys now."""
        self._authenticator.refresh(await self._metadata.keys())

    async def run(self) -> None:
        last_id = -1
        while True:
            change_id = await self._metadata.last_change_id()
            if change_id != last_id:
                await self.refresh()
                last_id = change_id
            await self._clock.sleep(INTERVAL_S)
