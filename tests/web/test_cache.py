"""The complete application, in process: deleted or expired data does not come from the cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.samples import HOUR_MS, NOW_MS
from vantage.app import create_app
from vantage.config import Settings
from vantage.storage import steady_time
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.ports import DeletionResult
from vantage.storage.retention_loop import INTERVAL_S

DAY_MS = 24 * HOUR_MS


class HeldClock:
    """Stands still until it is moved, and so do those who sleep. Its monotonic clock never goes on: nothing leaves the
    cache by age."""

    def __init__(self) -> None:
        self.now = NOW_MS
        self._asleep: list[tuple[int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return 1000.0

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._asleep.append((self.now + int(seconds * 1000), woken))
        await woken

    def move(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        due = [item for item in self._asleep if item[0] <= self.now]
        self._asleep = [item for item in self._asleep if item[0] > self.now]
        for _, woken in due:
            if not woken.done():
                woken.set_result(None)


class Running:
    """The application, queried over HTTP without a network."""

    def __init__(self, client: httpx.AsyncClient, clock: HeldClock) -> None:
        self.client, self.clock = client, clock

    async def send(self, *services: str) -> None:
        """A sample for each service; for one that is named twice they are of the same time."""
        at_ms = NOW_MS - 12 * HOUR_MS
        samples = [
            {"service_name": service, "metric_name": "m", "value": 1, "timestamp": at_ms} for service in services
        ]
        assert (await self.client.post("/v1/metrics", json={"metrics": samples})).status_code == 202

    async def total(self, service: str = "api", start_ms: int = NOW_MS - 20 * HOUR_MS) -> int:
        path = f"/api/metrics/timeseries?service={service}&metric=m&agg=count&step=60s&start={start_ms}&end={NOW_MS}"
        result = (await self.client.get(path)).json()
        return sum(point[1] or 0 for series in result["series"] for point in series["points"])

    async def figure(self, name: str) -> float:
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"vantage_query_cache_{name} "))

    async def until(self, true: Callable[[], Any]) -> None:
        while not await true():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Running]:
    clock = HeldClock()
    app = create_app(Settings(data=str(folder), self_telemetry=False, **settings), clock=clock)
    transport = httpx.ASGITransport(app.asgi)
    async with app.opened(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield Running(client, clock)


async def test_an_answer_comes_from_the_cache_the_second_time(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        await app.send("api")
        assert (await app.total(), await app.total()) == (1, 1)
        assert await app.figure("hits_total") == 1
        assert await app.figure("bytes") > 0


async def test_without_bytes_for_it_there_is_no_cache(tmp_path: Path) -> None:
    async with running(tmp_path, query_cache_bytes=0) as app:
        await app.send("api")
        assert (await app.total(), await app.total()) == (1, 1)
        assert await app.figure("hits_total") == await app.figure("bytes") == 0


@pytest.mark.parametrize("deleted", ["service=api", "environment=default", "service=api&environment=default"])
async def test_deleted_data_is_missing_from_results_at_once(tmp_path: Path, deleted: str) -> None:
    async with running(tmp_path) as app:
        await app.send("api", "api", "other")
        assert await app.total() == 2
        assert (await app.client.delete(f"/api/data?{deleted}")).status_code == 200
        assert await app.figure("bytes") == 0
        assert await app.total() == 0
        # The same series exists again: cached results of it would be returned.
        await app.send("api")
        assert await app.total() == 1


async def test_expired_data_is_missing_from_results_after_the_next_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady_time, "JUMP_MS_MIN", 1 << 50)  # the monotonic clock stands still here
    async with running(tmp_path, retention_days=1) as app:
        await app.send("api")
        assert (await app.total(), await app.total()) == (1, 1)
        assert await app.figure("hits_total") == 1
        await app.until(lambda: sleeping(app))
        app.clock.move(13 * HOUR_MS / 1000)

        async def emptied() -> bool:
            return await app.figure("bytes") == 0

        await app.until(emptied)
        assert await app.total() == 0


async def sleeping(app: Running) -> bool:
    """Whether the loop of retention waits for its next turn."""
    return any(at_ms - app.clock.now == INTERVAL_S * 1000 for at_ms, _ in app.clock._asleep)


@pytest.mark.parametrize(
    ("deleted", "emptied"),
    [
        (DeletionResult(), False),
        (DeletionResult(samples=1), True),
        (DeletionResult(nbytes=4096), True),
        (OSError("disk"), True),
    ],
)
async def test_retention_clears_the_cache_when_data_has_or_may_have_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: DeletionResult | OSError, *, emptied: bool
) -> None:
    looks = 0

    async def expire(*_: object) -> DeletionResult:
        nonlocal looks
        looks += 1
        if isinstance(deleted, OSError):
            raise deleted
        return deleted

    monkeypatch.setattr(EmbeddedStore, "expire", expire)
    async with running(tmp_path) as app:
        await app.send("api")
        await app.total()
        await app.until(lambda: sleeping(app))
        app.clock.move(INTERVAL_S)

        async def checked() -> bool:
            return looks > 0

        await app.until(checked)
        await asyncio.sleep(0)
        assert (await app.figure("bytes") == 0) == emptied
