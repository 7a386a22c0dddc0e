"""What every MetadataStore promises. ``test_metadata.py`` runs it on each implementation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from tests.contracts.alert_contract import AlertContract
from tests.contracts.availability_contract import AvailabilityContract
from tests.contracts.notice_contract import NoticeContract
from vantage.core.anomaly import Anomaly
from vantage.core.api_key import ApiKey, Scope, hash_secret
from vantage.core.audit import AuditEntry
from vantage.core.comparison import SavedComparison
from vantage.core.deployment import Deployment, Source
from vantage.core.errors import ConflictError, InputError, NotFoundError, StoreUnavailable
from vantage.core.saved_query import SavedQuery
from vantage.core.timerange import TimeRange
from vantage.storage.metadata import audit_entries, comparisons, memory
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.metadata.store import SqlMetadataStore
from vantage.storage.ports import Selector

AnyStore: TypeAlias = MemoryMetadataStore | SqlMetadataStore
# Opens the store again on the same data.
OpenStore: TypeAlias = Callable[[], AbstractAsyncContextManager[AnyStore]]

NOW_MS = 1_800_000_000_000


class MovedClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


def a_key(name: str = "shop", *, key_id: str = "", **fields: object) -> ApiKey:
    key_id = key_id or f"id-{name}"
    key = ApiKey(key_id, name, frozenset({Scope.INGEST, Scope.READ}), hash_secret(f"secret of {key_id}"), NOW_MS)
    return replace(key, **fields)  # type: ignore[arg-type]


def a_deployment(
    version: str = "1.0", *, source: Source = "detected", at_ms: int = NOW_MS, **fields: object
) -> Deployment:
    deployment = Deployment("checkout", "production", version, at_ms, source)
    return replace(deployment, **fields)  # type: ignore[arg-type]


def an_anomaly(start_ms: int, *, service: str = "shop", **fields: object) -> Anomaly:
    anomaly = Anomaly(
        service, "p95", "", start_ms, start_ms + 300_000, 1.5, 80.25, None, 10.0, 20.5, "seasonal", "ms", "text"
    )
    return replace(anomaly, **fields)  # type: ignore[arg-type]


def without_id(deployment: Deployment) -> Deployment:
    return replace(deployment, id=0)


class MetadataContract(AlertContract, NoticeContract, AvailabilityContract):
    """Fixtures of the subclass: ``open_store``, ``store`` (opened by it) and ``clock`` (the one it was given)."""

    # --- keys

    async def test_a_query_is_saved_replaced_listed_by_name_and_removed(self, store: AnyStore) -> None:
        for name, text in (("slow", "SELECT 1"), ("errors", "SELECT 2"), ("slow", "SELECT 3")):
            await store.save_query(SavedQuery(name, text, "ann", NOW_MS))
        assert [(query.name, query.text) for query in await store.saved_queries()] == [
            ("errors", "SELECT 2"),
            ("slow", "SELECT 3"),
        ]
        assert await store.remove_query("slow", actor="bob")
        assert not await store.remove_query("slow", actor="bob")
        assert [query.name for query in await store.saved_queries()] == ["errors"]
        assert [(entry.action, entry.actor, entry.subject) for entry in await store.audit()] == [
            ("query.remove", "bob", "slow"),
            ("query.save", "ann", "slow"),
            ("query.save", "ann", "errors"),
            ("query.save", "ann", "slow"),
        ]

    async def test_saved_queries_have_a_limit_and_a_known_one_may_still_change(
        self, store: AnyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(audit_entries, "SAVED_QUERIES_MAX", 1)
        await store.save_query(SavedQuery("first", "SELECT 1", "ann", NOW_MS))
        with pytest.raises(ConflictError, match="remove one"):
            await store.save_query(SavedQuery("second", "SELECT 1", "ann", NOW_MS))
        await store.save_query(SavedQuery("first", "SELECT 2", "ann", NOW_MS))
        assert [query.text for query in await store.saved_queries()] == ["SELECT 2"]

    async def test_comparisons_are_listed_by_age_without_their_documents(self, store: AnyStore) -> None:
        for number, service in enumerate(("api", "shop", "api")):
            saved = SavedComparison(str(number), NOW_MS + number, "ann", service, "t", "HOLD", {"of": [number, None]})
            assert await store.save_comparison(saved) == saved
        assert [(saved.id, saved.document) for saved in await store.comparisons()] == [("2", {}), ("1", {}), ("0", {})]
        assert [saved.id for saved in await store.comparisons(service="api", limit=1)] == ["2"]
        assert await store.comparison("1") == SavedComparison(
            "1", NOW_MS + 1, "ann", "shop", "t", "HOLD", {"of": [1, None]}
        )
        assert await store.comparison("none") is None

    async def test_what_is_compared_once_has_one_comparison(self, store: AnyStore) -> None:
        first, second = (SavedComparison(name, NOW_MS, "", "api", "", "DEPLOY", {}, "deployment:1") for name in "ab")
        assert await store.comparison_of("deployment:1") is None
        results = await asyncio.gather(store.save_comparison(first), store.save_comparison(second))
        assert len({saved.id for saved in results}) == 1
        assert await store.comparison_of("deployment:1") == results[0]
        assert len(await store.comparisons()) == 1

    async def test_the_oldest_of_too_many_comparisons_are_removed(
        self, store: AnyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (comparisons, memory):
            monkeypatch.setattr(module, "COMPARISONS_MAX", 2)
        for number in range(4):
            await store.save_comparison(SavedComparison(str(number), NOW_MS + number, "", "api", "", "HOLD", {}))
        assert [saved.id for saved in await store.comparisons()] == ["3", "2"]

    async def test_anomalies_are_listed_by_range_the_latest_first_and_replaced_by_series_and_start(
        self, store: AnyStore
    ) -> None:
        first = an_anomaly(NOW_MS, evidence={"pairs": [1.5, "x"]})
        assert await store.record_anomalies([first, an_anomaly(NOW_MS + 900_000, service="pay")], since_ms=0) == 0
        assert await store.record_anomalies([replace(first, end_ms=NOW_MS + 600_000, score=3.5)], since_ms=0) == 0
        latest = await store.anomalies()
        assert [(row.service, row.end_ms - row.start_ms, row.score) for row in latest] == [
            ("pay", 300_000, 1.5),
            ("shop", 600_000, 3.5),
        ]
        assert await store.anomaly(latest[1].id) == latest[1]
        assert latest[1].evidence == {"pairs": [1.5, "x"]}
        assert await store.anomaly(99) is None
        assert [row.service for row in await store.anomalies(service="shop")] == ["shop"]
        touched = TimeRange(NOW_MS + 599_999, NOW_MS + 900_000)
        assert [row.service for row in await store.anomalies(time_range=touched)] == ["shop"]
        assert len(await store.anomalies(limit=1)) == 1
        assert await store.audit() == []

    async def test_old_anomalies_and_those_of_a_deleted_service_are_removed(
        self, store: AnyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anomalies = [an_anomaly(NOW_MS + i * 1_000_000, service=f"s{i % 2}") for i in range(6)]
        await store.record_anomalies(anomalies, since_ms=0)
        assert await store.record_anomalies([], since_ms=NOW_MS + 300_000) == 0
        assert await store.record_anomalies([], since_ms=NOW_MS + 300_001) == 1
        assert await store.remove_anomalies("s1") == 3
        assert await store.remove_anomalies("s1") == 0
        assert [row.start_ms for row in await store.anomalies()] == [NOW_MS + 4_000_000, NOW_MS + 2_000_000]
        for module in ("vantage.storage.metadata.anomalies", "vantage.storage.metadata.memory"):
            monkeypatch.setattr(f"{module}.ANOMALIES_MAX", 1)
        assert await store.record_anomalies([], since_ms=0) == 1
        assert [row.start_ms for row in await store.anomalies()] == [NOW_MS + 4_000_000]

    async def test_a_partition_has_one_owner_and_the_next_one_finds_its_claim(self, store: AnyStore) -> None:
        first = await store.take_partition("topic", 3)
        assert (first.next_offset, first.claimed_last) == (None, None)
        assert await store.move_partition("topic", 3, replace(first, next_offset=100, claimed_last=149))
        second = await store.take_partition("topic", 3)
        assert second.epoch > first.epoch
        assert (second.next_offset, second.claimed_last) == (100, 149)
        assert not await store.move_partition("topic", 3, replace(first, next_offset=150))
        assert await store.move_partition("topic", 3, replace(second, next_offset=150, claimed_last=None))
        third = await store.take_partition("topic", 3)
        assert (third.next_offset, third.claimed_last) == (150, None)
        for topic, partition in (("topic", 4), ("other", 3)):
            assert (await store.take_partition(topic, partition)).next_offset is None

    async def test_of_workers_that_take_a_partition_at_once_one_is_its_owner(self, store: AnyStore) -> None:
        positions = await asyncio.gather(*(store.take_partition("topic", 0) for _ in range(8)))
        assert len({position.epoch for position in positions}) == 8
        moved = [await store.move_partition("topic", 0, replace(position, next_offset=1)) for position in positions]
        assert sum(moved) == 1

    async def test_a_created_key_is_listed_as_it_was_given(self, store: AnyStore) -> None:
        key = a_key(expires_ms=NOW_MS + 1000)
        await store.create_key(key, actor="cli")
        assert list(await store.keys()) == [key]

    async def test_a_key_may_have_no_scope_or_all(self, store: AnyStore) -> None:
        created = [a_key("a", scopes=frozenset()), a_key("b", scopes=frozenset(Scope))]
        for key in created:
            await store.create_key(key, actor="cli")
        assert list(await store.keys()) == created

    async def test_a_new_store_holds_nothing(self, store: AnyStore) -> None:
        assert list(await store.keys()) == []
        assert list(await store.deployments()) == []
        assert list(await store.audit()) == []
        assert await store.last_change_id() == 0

    async def test_keys_are_listed_oldest_first(self, store: AnyStore) -> None:
        for name, created_ms in (("young", NOW_MS + 5), ("old", NOW_MS), ("b", NOW_MS + 1), ("a", NOW_MS + 1)):
            await store.create_key(a_key(name, created_ms=created_ms), actor="cli")
        assert [key.name for key in await store.keys()] == ["old", "a", "b", "young"]

    @pytest.mark.parametrize(
        ("second", "field"),
        [
            (a_key("other", key_id="id-shop", secret_hash="0" * 64), "id"),
            (a_key("shop", key_id="id-2"), "name"),
            (a_key("other", secret_hash=a_key().secret_hash), "secret"),
        ],
    )
    async def test_a_key_whose_id_name_or_hash_is_taken_is_refused_and_leaves_nothing(
        self, store: AnyStore, second: ApiKey, field: str
    ) -> None:
        await store.create_key(a_key(), actor="cli")
        with pytest.raises(ConflictError) as caught:
            await store.create_key(second, actor="cli")
        assert caught.value.field == field
        assert list(await store.keys()) == [a_key()]
        assert len(await store.audit()) == 1

    async def test_the_name_of_a_revoked_key_is_free_again(self, store: AnyStore) -> None:
        await store.create_key(a_key(), actor="cli")
        await store.revoke_key("shop", actor="cli")
        await store.create_key(a_key(key_id="id-2"), actor="cli")
        assert [key.id for key in await store.keys()] == ["id-2", "id-shop"]

    async def test_the_name_of_an_expired_key_is_free_from_the_moment_of_expiry(
        self, store: AnyStore, clock: MovedClock
    ) -> None:
        await store.create_key(a_key(expires_ms=NOW_MS + 1000), actor="cli")
        clock.ms = NOW_MS + 999
        with pytest.raises(ConflictError):
            await store.create_key(a_key(key_id="id-2"), actor="cli")
        clock.ms = NOW_MS + 1000
        await store.create_key(a_key(key_id="id-2"), actor="cli")
        assert [key.is_active(clock.ms) for key in await store.keys()] == [True, False]

    async def test_the_hash_of_a_revoked_key_stays_taken(self, store: AnyStore) -> None:
        await store.create_key(a_key(), actor="cli")
        await store.revoke_key("shop", actor="cli")
        with pytest.raises(ConflictError):
            await store.create_key(a_key("other", secret_hash=a_key().secret_hash), actor="cli")

    async def test_of_twenty_keys_of_one_name_created_at_once_one_is_kept(self, store: AnyStore) -> None:
        made = (store.create_key(a_key(key_id=f"id-{n}"), actor="cli") for n in range(20))
        outcomes = await asyncio.gather(*made, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 19
        assert len(await store.keys()) == 1

    @pytest.mark.parametrize("id_or_name", ["id-shop", "shop"])
    async def test_a_key_is_revoked_by_id_or_name(self, store: AnyStore, clock: MovedClock, id_or_name: str) -> None:
        await store.create_key(a_key(), actor="cli")
        clock.ms += 7
        revoked = await store.revoke_key(id_or_name, actor="cli")
        assert revoked == a_key(revoked_ms=NOW_MS + 7)
        assert not revoked.is_active(clock.ms)
        assert list(await store.keys()) == [revoked]

    async def test_revoking_twice_by_id_changes_nothing(self, store: AnyStore, clock: MovedClock) -> None:
        await store.create_key(a_key(), actor="cli")
        first = await store.revoke_key("id-shop", actor="cli")
        clock.ms += 1000
        assert await store.revoke_key("id-shop", actor="cli") == first
        assert list(await store.keys()) == [first]
        assert [entry.action for entry in await store.audit()] == ["key.revoke", "key.create"]

    async def test_an_expired_key_can_be_revoked_by_id_and_not_by_name(
        self, store: AnyStore, clock: MovedClock
    ) -> None:
        await store.create_key(a_key(expires_ms=NOW_MS + 1), actor="cli")
        clock.ms += 1
        with pytest.raises(NotFoundError):
            await store.revoke_key("shop", actor="cli")
        assert (await store.revoke_key("id-shop", actor="cli")).revoked_ms == clock.ms

    async def test_revoking_by_name_takes_the_usable_key_of_several(self, store: AnyStore) -> None:
        await store.create_key(a_key(key_id="first"), actor="cli")
        await store.revoke_key("shop", actor="cli")
        await store.create_key(a_key(key_id="second"), actor="cli")
        assert (await store.revoke_key("shop", actor="cli")).id == "second"

    async def test_an_id_goes_before_a_name(self, store: AnyStore) -> None:
        await store.create_key(a_key("x", key_id="y"), actor="cli")
        await store.create_key(a_key("y", key_id="z"), actor="cli")
        assert (await store.revoke_key("y", actor="cli")).name == "x"

    async def test_revoking_an_unknown_key_is_not_found_and_leaves_no_entry(self, store: AnyStore) -> None:
        with pytest.raises(NotFoundError):
            await store.revoke_key("nobody", actor="cli")
        assert list(await store.audit()) == []

    # --- deployments

    async def test_a_deployment_is_listed_as_it_was_given_with_an_id(self, store: AnyStore) -> None:
        deployment = a_deployment(source="reported", description="new cart ✓", id=99)
        assert await store.record_deployment(deployment, actor="id-shop")
        (listed,) = await store.deployments()
        assert without_id(listed) == without_id(deployment)
        assert listed.id == 1

    async def test_a_version_seen_earlier_moves_back(self, store: AnyStore) -> None:
        assert await store.record_deployment(a_deployment(at_ms=5000), actor="system") is True
        assert await store.record_deployment(a_deployment(at_ms=3000), actor="system") is False
        assert await store.record_deployment(a_deployment(at_ms=4000), actor="system") is False
        assert [deployment.at_ms for deployment in await store.deployments()] == [3000]

    async def test_of_twenty_sightings_at_once_one_is_kept(self, store: AnyStore) -> None:
        sightings = (store.record_deployment(a_deployment(at_ms=NOW_MS + n), actor="system") for n in range(20))
        outcomes = await asyncio.gather(*sightings)
        assert sorted(outcomes) == [False] * 19 + [True]
        assert len(await store.deployments()) == 1
        assert len(await store.audit()) == 1

    @pytest.mark.parametrize("change", [{"service": "cart"}, {"environment": ""}, {"version": "1.1"}])
    async def test_another_service_environment_or_version_is_another_deployment(
        self, store: AnyStore, change: dict[str, Any]
    ) -> None:
        assert await store.record_deployment(a_deployment(), actor="system")
        assert await store.record_deployment(a_deployment(**change), actor="system")

    async def test_a_sighting_of_a_told_version_is_not_kept(self, store: AnyStore) -> None:
        await store.record_deployment(a_deployment(source="reported"), actor="id-shop")
        assert not await store.record_deployment(a_deployment(), actor="system")
        assert [deployment.source for deployment in await store.deployments()] == ["reported"]

    async def test_told_deployments_are_always_kept(self, store: AnyStore) -> None:
        for source in ("detected", "reported", "reported"):
            assert await store.record_deployment(a_deployment(source=source), actor="id-shop")
        assert [deployment.source for deployment in await store.deployments()] == ["reported", "reported", "detected"]

    async def test_deployments_are_listed_latest_first_and_at_most_as_many_as_asked(self, store: AnyStore) -> None:
        for version, at_ms in (("b", 2000), ("d", 4000), ("a", 1000), ("c", 3000)):
            await store.record_deployment(a_deployment(version, at_ms=at_ms), actor="system")
        assert [deployment.version for deployment in await store.deployments()] == ["d", "c", "b", "a"]
        assert [deployment.version for deployment in await store.deployments(limit=2)] == ["d", "c"]
        assert list(await store.deployments(limit=0)) == []
        assert list(await store.deployments(limit=-1)) == []

    async def test_deployments_are_selected_by_service_and_time(self, store: AnyStore) -> None:
        for service in ("cart", "checkout"):
            for at_ms in (1000, 2000, 3000):
                deployment = a_deployment(str(at_ms), at_ms=at_ms, service=service)
                await store.record_deployment(deployment, actor="system")
        deployments = await store.deployments(service="cart", time_range=TimeRange(1000, 3000))
        assert [(deployment.service, deployment.at_ms) for deployment in deployments] == [
            ("cart", 2000),
            ("cart", 1000),
        ]
        assert len(await store.deployments(time_range=TimeRange(3000, 3001))) == 2

    @pytest.mark.parametrize(
        ("selector", "left"),
        [
            (Selector(service="a"), ["b/prod", "b/test"]),
            (Selector(environment="prod"), ["a/test", "b/test"]),
            (Selector(service="a", environment="prod"), ["a/test", "b/prod", "b/test"]),
            (Selector(service="c"), ["a/prod", "a/test", "b/prod", "b/test"]),
        ],
    )
    async def test_what_is_selected_is_removed_and_nothing_else(
        self, store: AnyStore, selector: Selector, left: list[str]
    ) -> None:
        for service in ("a", "b"):
            for environment in ("prod", "test"):
                deployment = a_deployment(service=service, environment=environment)
                await store.record_deployment(deployment, actor="system")
        before = await store.last_change_id()
        assert await store.remove_deployments(selector, actor="id-shop") == 4 - len(left)
        names = sorted(f"{result.service}/{result.environment}" for result in await store.deployments())
        assert names == left
        assert await store.last_change_id() == before + (len(left) < 4)

    async def test_a_selector_of_everything_is_refused(self, store: AnyStore) -> None:
        await store.record_deployment(a_deployment(), actor="system")
        with pytest.raises(InputError):
            await store.remove_deployments(Selector(), actor="id-shop")
        assert len(await store.deployments()) == 1

    async def test_a_removed_version_counts_as_new_when_it_is_seen_again_and_gets_a_new_id(
        self, store: AnyStore
    ) -> None:
        await store.record_deployment(a_deployment(), actor="system")
        await store.remove_deployments(Selector(service="checkout"), actor="id-shop")
        assert await store.record_deployment(a_deployment(), actor="system")
        assert [deployment.id for deployment in await store.deployments()] == [2]

    # --- audit

    async def test_every_change_leaves_one_entry_in_the_actors_name(self, store: AnyStore, clock: MovedClock) -> None:
        await store.create_key(a_key(), actor="cli")
        clock.ms += 1
        await store.revoke_key("shop", actor="local")
        clock.ms += 1
        await store.record_deployment(a_deployment(at_ms=5), actor="system")
        clock.ms += 1
        await store.remove_deployments(Selector(service="checkout"), actor="id-7")
        assert list(await store.audit()) == [
            AuditEntry(
                NOW_MS + 3,
                "id-7",
                "deployment.remove",
                "checkout",
                {"service": "checkout", "environment": "", "removed": "1"},
                id=4,
            ),
            AuditEntry(
                NOW_MS + 2,
                "system",
                "deployment.record",
                "checkout",
                {"environment": "production", "version": "1.0", "source": "detected"},
                id=3,
            ),
            AuditEntry(NOW_MS + 1, "local", "key.revoke", "id-shop", {"name": "shop"}, id=2),
            AuditEntry(NOW_MS, "cli", "key.create", "id-shop", {"name": "shop", "scopes": "ingest,read"}, id=1),
        ]

    async def test_no_entry_holds_a_hash(self, store: AnyStore) -> None:
        await store.create_key(a_key(), actor="cli")
        await store.revoke_key("shop", actor="cli")
        assert a_key().secret_hash not in repr(await store.audit())

    async def test_an_entry_of_a_change_made_elsewhere_is_kept_as_given(self, store: AnyStore) -> None:
        entry = AuditEntry(5, "id-7", "data.forget", "café", {"samples": "12", "note": "'quoted' \\ ✓"}, id=77)
        await store.record_audit(entry)
        assert list(await store.audit()) == [replace(entry, id=1)]

    async def test_the_audit_log_can_be_paged_through(self, store: AnyStore) -> None:
        for n in range(7):
            await store.record_audit(AuditEntry(NOW_MS - n, "system", "test", str(n)))
        subjects: list[str] = []
        before_id: int | None = None
        while page := await store.audit(limit=3, before_id=before_id):
            subjects += [entry.subject for entry in page]
            before_id = page[-1].id
        assert subjects == ["6", "5", "4", "3", "2", "1", "0"]
        assert list(await store.audit(limit=0)) == []
        assert list(await store.audit(limit=-1)) == []

    async def test_the_last_change_id_grows_with_changes_and_with_nothing_else(self, store: AnyStore) -> None:
        await store.create_key(a_key(), actor="cli")
        after_one = await store.last_change_id()
        await store.keys()
        with pytest.raises(ConflictError):
            await store.create_key(a_key(), actor="cli")
        assert await store.last_change_id() == after_one > 0
        await store.revoke_key("shop", actor="cli")
        assert await store.last_change_id() > after_one

    # --- open and closed

    async def test_everything_is_there_after_closing_and_opening_again(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.create_key(a_key(), actor="cli")
            await store.record_deployment(a_deployment(), actor="system")
            before = (await store.keys(), await store.deployments(), await store.audit())
        async with open_store() as store:
            assert (await store.keys(), await store.deployments(), await store.audit()) == before
            assert not await store.record_deployment(a_deployment(), actor="system")

    async def test_an_open_store_answers_a_ping(self, store: AnyStore) -> None:
        await store.ping()

    async def test_a_closed_store_is_unavailable_and_can_be_opened_again(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            pass
        for use in (store.ping(), store.keys(), store.create_key(a_key(), actor="cli"), store.audit()):
            with pytest.raises(StoreUnavailable):
                await use
        async with store:
            assert list(await store.keys()) == []
