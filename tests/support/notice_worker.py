"""Runs the loops of notices on a metadata database until it is killed: ``notice_worker.py URL HOOK KEY OFFSET_MS``.

Its clock is ahead by an offset: a test need not wait for the lease of one that was killed.
"""

from __future__ import annotations

import asyncio
import sys
import time

from vantage.alerting.channels.notifier import Tools
from vantage.alerting.deliver import Deliverer
from vantage.alerting.dispatch import Dispatcher
from vantage.alerting.links import Links
from vantage.alerting.outgoing import Outgoing
from vantage.alerting.secrets import Secrets
from vantage.storage.metadata.store import SqlMetadataStore
from vantage.telemetry import Telemetry


class AheadClock:
    def __init__(self, offset_ms: int) -> None:
        self._offset_ms = offset_ms

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._offset_ms

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))


async def main(url: str, key: str, offset_ms: int) -> None:
    clock, telemetry, secrets = AheadClock(offset_ms), Telemetry(), Secrets(key)
    async with SqlMetadataStore(url, clock) as store:
        tools = Tools(Outgoing(["127.0.0.0/8"]), Links(secrets, clock), clock, "http://127.0.0.1")
        sender = Deliverer(store, secrets, tools, telemetry=telemetry)
        print("ready", flush=True)
        await asyncio.gather(Dispatcher(store, clock, telemetry).run(), sender.run())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
