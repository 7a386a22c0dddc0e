"""Rates that servers share in Redis: the same bucket for all of them, and what happens when Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.certificate import make_certificate
from tests.support.databases import DatabaseServer, redis_server
from tests.support.wait import until
from vantage.core.clock import SystemClock
from vantage.core.errors import ConfigError
from vantage.telemetry import Telemetry
from vantage.web import shared_rates
from vantage.web.limits import RateLimited, Rates, TokenBuckets
from vantage.web.shared_rates import SharedRates, parse_redis_url

pytest.importorskip("redis", reason="pip install 'vantage[server,redis]'")
FALLBACKS = "vantage_rate_limit_fallbacks_total"


@pytest.fixture(scope="module")
def server() -> Iterator[DatabaseServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(autouse=True)
def own_prefix_and_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rates, "PREFIX", f"test:{request.node.name}:")
    # A busy machine is not under test, unless a test says otherwise.
    monkeypatch.setattr(shared_rates, "TIMEOUT_S", 10.0)


def rates_on(server: DatabaseServer, telemetry: Telemetry | None = None) -> SharedRates:
    url = f"redis://127.0.0.1:{server.port}/0"
    return SharedRates(url, clock=SystemClock(), telemetry=telemetry or Telemetry())


async def take(rates: Rates, owner: str = "a") -> bool:
    """Take a token; return whether there was one."""
    try:
        pending = rates.take(owner, time.monotonic())
        if pending is not None:
            await pending
    except RateLimited:
        return False
    return True


async def takes(rates: Rates, number: int, owner: str = "a") -> list[bool]:
    return [await take(rates, owner) for _ in range(number)]


async def test_all_of_a_minute_s_requests_may_come_at_once_and_no_more(server: DatabaseServer) -> None:
    async with rates_on(server) as shared:
        assert await takes(shared.buckets("ingest", 3), 5) == [True, True, True, False, False]


async def test_two_servers_share_the_tokens_of_an_owner(server: DatabaseServer) -> None:
    async with rates_on(server) as first, rates_on(server) as second:
        passed = await asyncio.gather(
            *(take(shared.buckets("ingest", 30)) for _ in range(30) for shared in (first, second))
        )
        assert passed.count(True) == 30


async def test_thousands_of_requests_at_once_share_few_round_trips(server: DatabaseServer) -> None:
    async with rates_on(server) as shared:
        before = (await shared._client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        passed = await asyncio.gather(*(take(shared.buckets("ingest", 1000)) for _ in range(3000)))
        assert 1000 <= passed.count(True) < 1500
        calls = (await shared._client.info("commandstats"))["cmdstat_evalsha"]["calls"] - before
        assert calls <= 3000 / shared_rates.BATCH_MAX + 2
        assert (await shared._client.info("clients"))["connected_clients"] <= 2


async def test_owners_and_kinds_of_requests_do_not_take_from_each_other(server: DatabaseServer) -> None:
    async with rates_on(server) as shared:
        ingest, api = shared.buckets("ingest", 1), shared.buckets("api", 1)
        assert [await take(ingest), await take(ingest), await take(api), await take(ingest, "b")] == [
            True,
            False,
            True,
            True,
        ]


async def test_tokens_come_back_and_a_refusal_says_when(server: DatabaseServer) -> None:
    async with rates_on(server) as shared:
        buckets = shared.buckets("ingest", 600)
        passed = await takes(buckets, 700)
        assert 600 <= passed.count(True) < 700
        with pytest.raises(RateLimited, match="more than 600 requests a minute") as refused:
            while (pending := buckets.take("a", 0.0)) is not None:
                await pending
        assert 0 < refused.value.retry_after_s <= 0.1
        await until(lambda: take(buckets), 5.0)


async def test_zero_is_no_limit(server: DatabaseServer) -> None:
    async with rates_on(server) as shared:
        assert shared.buckets("ingest", 0).take("a", 0.0) is None


async def test_buckets_expire_in_redis(server: DatabaseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rates_on(server) as shared:
        await take(shared.buckets("ingest", 5))
        lifetimes_ms = [await shared._client.pttl(key) for key in await shared._client.keys(f"{shared_rates.PREFIX}*")]
        assert lifetimes_ms
        assert all(0 < lifetime_ms <= shared_rates.EXPIRES_MS for lifetime_ms in lifetimes_ms)


async def test_a_killed_redis_refuses_nobody_and_is_used_again_when_it_is_back() -> None:
    telemetry = Telemetry()
    with redis_server() as server, capture_logs() as logs:
        async with rates_on(server, telemetry) as shared:
            buckets = shared.buckets("ingest", 3)
            assert await takes(buckets, 4) == [True, True, True, False]
            server.kill()
            # The process counts by itself now: its own bucket is full.
            assert await takes(buckets, 4) == [True, True, True, False]
            assert telemetry.value(FALLBACKS) == 4
            assert shared.warning().startswith("every server counts the rates of its own requests alone: Redis at")
            assert buckets.take("b", 0.0) is None, "no request waits for a Redis that is away"
            server.start()
            await until(lambda: not shared.away)
            assert shared.warning() == ""
            assert await takes(buckets, 4) == [True, True, True, False]  # Redis started empty
            assert telemetry.value(FALLBACKS) == 5
    assert [entry["event"] for entry in logs] == [
        "rates are not shared: every server counts by itself",
        "rates are shared again",
    ]


async def test_a_redis_that_stands_still_costs_few_requests_their_limit_and_mixes_no_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    telemetry = Telemetry()
    with redis_server() as server:
        async with rates_on(server, telemetry) as shared:
            empty, full = shared.buckets("empty", 1), shared.buckets("full", 1_000_000)
            assert await take(empty)
            for _ in range(3):
                server.pause()
                monkeypatch.setattr(shared_rates, "TIMEOUT_S", 0.05)
                began_s = time.monotonic()
                assert all(await takes(full, 1000))
                assert time.monotonic() - began_s < 1000 * shared_rates.TIMEOUT_S / 2
                assert shared.away
                monkeypatch.setattr(shared_rates, "TIMEOUT_S", 10.0)
                server.resume()
                await until(lambda: not shared.away)
                # An answer that came too late must not be read as that of another request.
                for _ in range(20):
                    passed = await asyncio.gather(*(take(buckets) for _ in range(10) for buckets in (empty, full)))
                    assert passed[1::2] == [True] * 10
                    assert passed[0::2].count(True) <= 1


async def test_a_server_starts_and_counts_by_itself_without_redis() -> None:
    telemetry = Telemetry()
    with redis_server() as server:
        server.kill()
        async with rates_on(server, telemetry) as shared:
            assert await takes(shared.buckets("ingest", 2), 3) == [True, True, False]
            server.start()
            await until(lambda: not shared.away)
            assert await takes(shared.buckets("ingest", 2), 3) == [True, True, False]
        assert telemetry.value(FALLBACKS) == 3


async def test_a_wrong_password_is_reported_without_it() -> None:
    with redis_server("--requirepass", "right") as server:
        url = f"redis://:geheim@127.0.0.1:{server.port}"
        async with SharedRates(url, clock=SystemClock(), telemetry=Telemetry()) as shared:
            assert "password" in shared.warning()
            assert "geheim" not in shared.warning()
        url = f"redis://:right@127.0.0.1:{server.port}"
        async with SharedRates(url, clock=SystemClock(), telemetry=Telemetry()) as shared:
            assert shared.warning() == ""


async def test_tls_checks_the_certificate_of_redis(tmp_path: Path) -> None:
    pem, key = make_certificate(tmp_path)
    with redis_server(certificate=(pem, key)) as server:
        url = f"rediss://127.0.0.1:{server.port}"
        async with SharedRates(f"{url}?ssl_ca_certs={pem}", clock=SystemClock(), telemetry=Telemetry()) as shared:
            assert shared.warning() == ""
            assert await takes(shared.buckets("ingest", 1), 2) == [True, False]
        async with SharedRates(url, clock=SystemClock(), telemetry=Telemetry()) as shared:
            assert "certificate" in shared.warning().lower()


async def test_a_script_that_redis_has_dropped_is_sent_again(server: DatabaseServer) -> None:
    async with rates_on(server) as shared:
        await shared._client.script_flush()
        assert await takes(shared.buckets("ingest", 1), 2) == [True, False]
        assert not shared.away


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("redis://host", "host:6379/0"),
        ("redis://:p%40w%2F@host:1234/3", "host:1234/3"),
        ("rediss://me:pw@[::1]/1?ssl_ca_certs=/ca.pem", "::1:6379/1"),
    ],
)
def test_a_url_names_a_host_and_a_database(text: str, where: str) -> None:
    assert parse_redis_url(text).where == where
    assert repr(parse_redis_url(text)) == f"RedisUrl({where})"
    assert parse_redis_url("redis://:p%40w%2F@host").password == "p@w/"


@pytest.mark.parametrize(
    "text",
    [
        "geheim",
        "redis://",
        "redis://:geheim@",
        "http://:geheim@host",
        "redis://:geheim@host:port",
        "redis://:geheim@host:70000",
        "redis://:geheim@host/name",
        "redis://host?password=geheim",
    ],
)
def test_a_wrong_url_is_refused_without_the_password(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        SharedRates(text, clock=SystemClock(), telemetry=Telemetry())
    assert "geheim" not in str(refused.value)


def test_both_kinds_of_rates_fit_the_protocol() -> None:
    rates: list[Rates] = [
        TokenBuckets(1),
        SharedRates("redis://host", clock=SystemClock(), telemetry=Telemetry()).buckets("x", 1),
    ]
    assert len(rates) == 2
