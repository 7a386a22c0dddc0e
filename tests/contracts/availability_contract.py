"""What every AvailabilityStore promises: part of the contract of metadata."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vantage.core.availability import CheckResult, Heartbeat, HttpCheck
from vantage.core.errors import ConflictError
from vantage.core.slo import Slo

NOW_MS = 1_800_000_000_000
CHECK = HttpCheck("home", "https://shop.example.com/", "shop", every="1m")


class AvailabilityContract:
    """Fixtures of the subclass: ``store``, whose ``availability`` is what is tested."""

    async def test_objectives_are_stored_replaced_and_removed(self, store: Any) -> None:
        part = store.availability
        slo = Slo("fast", "latency", "shop", threshold_ms=250.0)
        stored = await part.save_slo(slo, actor="ann", revision=0)
        assert (stored.slo, stored.revision, stored.author) == (slo, 1, "ann")
        with pytest.raises(ConflictError, match="name"):
            await part.save_slo(slo, actor="ann", revision=0)
        assert (await part.save_slo(Slo("fast", service="shop"), actor="bob", revision=1)).revision == 2
        with pytest.raises(ConflictError, match="revision"):
            await part.save_slo(slo, actor="ann", revision=1)
        await part.save_slo(Slo("another", service="shop"), actor="ann")
        assert [item.slo.name for item in await part.slos()] == ["another", "fast"]
        assert await part.remove_slo("fast", actor="ann")
        assert not await part.remove_slo("fast", actor="ann")
        assert [entry.action for entry in await store.audit()][:2] == ["slo.remove", "slo.save"]

    async def test_a_heartbeat_keeps_its_token_and_what_was_reported(self, store: Any) -> None:
        part = store.availability
        first = await part.save_heartbeat(Heartbeat("nightly"), token="t-1", actor="ann", revision=0)
        assert (first.token, first.last_ms, first.started_ms) == ("t-1", None, None)
        assert await part.ping("t-1", "start", at_ms=NOW_MS)
        assert await part.ping("t-1", "success", at_ms=NOW_MS + 5)
        assert await part.ping("t-1", "fail", at_ms=NOW_MS + 9)
        assert not await part.ping("t-2", "success", at_ms=NOW_MS)
        changed = await part.save_heartbeat(Heartbeat("nightly", grace="1h"), token="t-9", actor="bob", revision=1)
        assert (changed.token, changed.created_ms) == ("t-1", first.created_ms)
        (stored,) = await part.heartbeats()
        assert (stored.started_ms, stored.last_ms, stored.failed_ms) == (NOW_MS, NOW_MS + 5, NOW_MS + 9)
        assert stored.heartbeat.grace == "1h"
        assert await part.remove_heartbeat("nightly", actor="ann")
        assert not await part.ping("t-1", "success", at_ms=NOW_MS)

    async def test_a_check_is_claimed_once_and_records_its_results(self, store: Any) -> None:
        part = store.availability
        stored = await part.save_check(CHECK, actor="ann", revision=0)
        now_ms = stored.due_ms
        claims = await asyncio.gather(*(part.claim_checks(now_ms=now_ms, limit=10) for _ in range(4)))
        assert sorted(len(claim) for claim in claims) == [0, 0, 0, 1]
        assert await part.claim_checks(now_ms=now_ms + 59_000, limit=10) == []
        assert len(await part.claim_checks(now_ms=now_ms + 60_000, limit=10)) == 1
        for number, is_up in enumerate((True, True, False, False)):
            await part.record_result("home", CheckResult(NOW_MS + number, is_up, 200, 12.5, "" if is_up else "odd"))
        (check,) = await part.checks()
        assert (check.failures, check.since_ms) == (2, NOW_MS + 2)
        assert check.result == CheckResult(NOW_MS + 3, False, 200, 12.5, "odd")
        again = await part.save_check(HttpCheck("home", "https://shop.example.com/", every="5m"), actor="ann")
        assert again.failures == 2
        other = await part.save_check(HttpCheck("home", "https://example.com/"), actor="ann")
        assert (other.failures, other.result) == (0, None)
        assert await part.remove_check("home", actor="ann")
        await part.record_result("home", CheckResult(NOW_MS, True, 200, 1.0))
        assert await part.checks() == []

    async def test_there_is_a_limit(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("availability", "memory_availability"):
            monkeypatch.setattr(f"vantage.storage.metadata.{module}.SLOS_MAX", 1)
        await store.availability.save_slo(Slo("a", service="s"), actor="ann")
        await store.availability.save_slo(Slo("a", service="t"), actor="ann")
        with pytest.raises(ConflictError, match="remove one first"):
            await store.availability.save_slo(Slo("b", service="s"), actor="ann")
