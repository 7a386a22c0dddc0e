"""The table of batch ids, by which batches that are sent again are recognised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from vantage.core.batch import BATCH_ID_MEMORY_MAX, BATCH_ID_MEMORY_MS
from vantage.storage.clickhouse.engine import Engine, Statement
from vantage.storage.clickhouse.expressions import Params
from vantage.storage.recent_batch_ids import RecentBatchIds

IDS_MAX: Final = 1000  # looked up by one statement
NO_MESSAGE: Final = -1  # partition and offset of a batch that came without a broker

_Condition = Callable[[Params], str]


@dataclass(frozen=True, slots=True)
class BatchId:
    """A stored batch: when it was stored, or the time, partition and offset of its message."""

    batch_id: str
    at_ms: int
    partition: int = NO_MESSAGE
    offset: int = NO_MESSAGE


class BatchIdTable:
    """Looks up batch ids. Its methods block."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self, ids: RecentBatchIds, *, now_ms: int) -> None:
        """Load the ids of the last hour. Their time continues from the newest; where other processes store some as
        well, from the clock unless that is behind."""
        result = self._engine.run(
            Statement(
                "SELECT batch_id, toUnixTimestamp64Milli(kept_at) AS at_ms FROM batch_ids "
                "WHERE kept_at >= (SELECT max(kept_at) FROM batch_ids) - toIntervalMillisecond({memory:Int64}) "
                "ORDER BY kept_at DESC LIMIT {ids_max:UInt64}",
                {"memory": BATCH_ID_MEMORY_MS, "ids_max": BATCH_ID_MEMORY_MAX},
            )
        )
        times = result.to_list("at_ms")
        if times:
            ids.start_from(max(times[0], now_ms) if self._engine.shared else times[0])
        for batch_id, at_ms in zip(reversed(result.to_list("batch_id")), reversed(times), strict=True):
            ids.add(batch_id, at_ms)

    def stored(self, ids: Sequence[str], *, since_ms: int) -> set[str]:
        """Return those of ``ids`` that were stored since a time."""
        return self._select(ids, since_ms, lambda _: "")

    def before(self, ids: Sequence[str], *, partition: int, offset: int, since_ms: int) -> set[str]:
        """Return those of ``ids`` that were stored since a time, from anywhere but ``partition`` at ``offset`` and
        later."""

        def elsewhere(params: Params) -> str:
            return (
                f" AND (message_partition != {params.bind(partition, 'Int64')} "
                f"OR message_offset < {params.bind(offset, 'Int64')})"
            )

        return self._select(ids, since_ms, elsewhere)

    def _select(self, ids: Sequence[str], since_ms: int, further: _Condition) -> set[str]:
        stored: set[str] = set()
        for start in range(0, len(ids), IDS_MAX):
            params = Params()
            # One parameter: a thousand take a tenth of a second. Ids may contain anything, their digits do not.
            digits = params.bind(",".join(name.encode().hex() for name in ids[start : start + IDS_MAX]), "String")
            since = params.bind(max(0, since_ms), "Int64")
            result = self._engine.run(
                Statement(
                    "SELECT DISTINCT batch_id FROM batch_ids "
                    f"WHERE batch_id IN (SELECT unhex(arrayJoin(splitByChar(',', {digits})))) "
                    f"AND kept_at >= fromUnixTimestamp64Milli({since}, 'UTC'){further(params)}",
                    params.values,
                )
            )
            stored.update(result.to_list("batch_id"))
        return stored
