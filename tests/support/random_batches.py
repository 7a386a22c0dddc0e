"""Random batches from a seed, as unusual as the limits allow."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from tests.support.samples import NOW_MS, a_series, a_span
from vantage.core.batch import Batch, build_batch
from vantage.core.exemplars import NO_EXEMPLARS, encode_exemplars
from vantage.core.sample import Kind
from vantage.core.series import Series
from vantage.core.span import SpanStatus

VALUES = (0.0, -0.0, 1.0, 0.1, -2.5e-9, 5e-324, 1.7976931348623157e308, -1e300, 123456789.123456789, 1e15 + 0.3, 7e22)


class RandomBatches:
    """Random batches from one seed: late and early, years back, the same time twice, unusual values."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_ms = NOW_MS - 20 * 86_400_000
        self.series = [self._series(n) for n in range(12)]
        self._traces = 0

    def _series(self, n: int) -> Series:
        kind = self.random.choice(list(Kind))
        return a_series(f"svc{n % 3}", f"m{n % 4}", kind, tags={"n": str(n), "ü": "ß"}, unit=["", "s"][n % 2])

    def _value(self) -> float:
        return self.random.choice([
            float(self.random.randint(-5, 500)), round(self.random.lognormvariate(3, 1), 2), self.random.random(),
            self.random.choice(VALUES),
        ])  # fmt: skip

    def batch(self) -> Batch:
        self.now_ms += self.random.choice([1000, 60_000, 3_600_000, 86_400_000])
        self.now_ms = min(self.now_ms, NOW_MS)
        rows = []
        for _ in range(self.random.randint(0, 60)):
            back_ms = self.random.choice([0, 0, 0, 5, 300_000, 7 * 86_400_000, 3 * 365 * 86_400_000])
            rows.append((self.random.choice(self.series), self.now_ms - back_ms, self._value()))
        exemplars = NO_EXEMPLARS
        positions = sorted(self.random.sample(range(len(rows)), len(rows) // 5))
        if positions:
            ids = [self._id() for _ in positions]
            exemplars = encode_exemplars(np.array(positions, np.uint32), ids, [trace_id[:16] for trace_id in ids])
        spans = tuple(self._span(n) for n in range(self.random.randint(0, 8)))
        return build_batch(rows, exemplars=exemplars, spans=spans) if rows else Batch(spans=spans)

    def _id(self) -> str:
        self._traces += self.random.randint(0, 1)
        return self.random.choice([f"{self._traces:032x}", f"t-{self._traces}"])

    def _span(self, n: int) -> Any:
        return a_span(
            self._id(), f"{self.random.getrandbits(64):016x}", "" if not n else f"{n:016x}",
            service=f"svc{n % 3}", start_ms=self.now_ms - self.random.choice([0, 1, 1, 86_400_000]),
            duration_ms=self.random.expovariate(0.01), name=f"op {n}",
            status=self.random.choice(list(SpanStatus)), service_version=str(n % 2),
            attributes={"http.route": f"/{n % 3}", "naïve": "🙂" * (n % 3)},
        )  # fmt: skip
