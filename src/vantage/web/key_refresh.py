"""The loop that keeps the API keys in memory up to date."""

from __future__ import annotations

from typing import Final

import structlog

from vantage.core.clock import Clock
from vantage.core.errors import UnavailableError
from vantage.storage.metadata.ports import MetadataStore
from vantage.web.auth import Authenticator

INTERVAL_S: Final = 2.0
_log = structlog.get_logger("vantage.web.keys")


class KeyRefreshLoop:
    """Reads the keys again when the metadata has changed, even by another process. While the metadata database is away
    the known keys stay in use."""

    name = "keys"

    def __init__(self, metadata: MetadataStore, authenticator: Authenticator, *, clock: Clock) -> None:
        self._metadata = metadata
        self._authenticator = authenticator
        self._clock = clock
        self.failure = ""  # why keys cannot be read again

    async def refresh(self) -> None:
        """Read the keys now."""
        self._authenticator.refresh(await self._metadata.keys())

    async def run(self) -> None:
        last_id = -1
        while True:
            try:
                change_id = await self._metadata.last_change_id()
                if change_id != last_id:
                    await self.refresh()
                    last_id = change_id
            except UnavailableError as error:
                if not self.failure:  # once for each outage
                    known = "those known stay in use" if self._authenticator.known else "requests that need one get 503"
                    _log.warning(f"API keys cannot be read: {known}", reason=str(error))
                self.failure = str(error)
            else:
                if self.failure:
                    _log.info("API keys are read again")
                self.failure = ""
            await self._clock.sleep(INTERVAL_S)
