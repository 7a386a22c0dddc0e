"""The page of anomalies and that of one: what is shown is what was computed, and names are inert."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from litestar.testing import AsyncTestClient

from tests.query.test_anomalies import END_MS, STEP_MS, calm, watch_of, write
from tests.support.pages import FRAGMENT, page_client
from tests.support.samples import MovedClock
from vantage.core.anomaly import Anomaly
from vantage.core.number_format import quantity
from vantage.core.timerange import TimeRange
from vantage.query.anomalies import list_anomalies
from vantage.query.context import QueryContext
from vantage.query.detector_runs import DetectorRuns, DetectorState, Watched
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.metadata.memory import MemoryMetadataStore
from vantage.storage.metadata.ports import MetadataStore
from vantage.telemetry import Telemetry
from vantage.vql.text.compile import compile_query
from vantage.web.pages import anomalies as page

Client = AsyncTestClient[Any]
HOSTILE = "<script>alert('x')<\\script>\u202e\U0001f600\"'"


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[QueryContext]:
    clock = MovedClock(END_MS + 61_000)
    telemetry = Telemetry()
    async with (
        MemoryMetadataStore(clock) as metadata,
        EmbeddedStore(tmp_path, clock=clock, telemetry=telemetry) as store,
    ):
        yield QueryContext(store, metadata, clock, telemetry)


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    async with page_client(context, page.handlers, watched=Watched()) as client:
        yield client


async def store(context: QueryContext, *anomalies: Anomaly) -> None:
    await cast(MetadataStore, context.metadata).record_anomalies(anomalies, since_ms=0)


def an_anomaly(service: str = "shop", *, ago: int = 10, score: float = 2.0, **other: Any) -> Anomaly:
    start_ms = END_MS - ago * STEP_MS
    fields: dict[str, Any] = {
        "figure": "p95",
        "metric": "",
        "value": 300.0,
        "expected": 50.0,
        "low": 40.0,
        "high": 60.0,
    } | other
    return Anomaly(
        service, start_ms=start_ms, end_ms=start_ms + STEP_MS, score=score, mode="seasonal", unit="ms",
        text=f"p95 of {service} was long.", **fields,
    )  # fmt: skip


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


async def test_marks_have_a_shape_and_a_text_for_their_level(client: Client, context: QueryContext) -> None:
    await store(context, *(an_anomaly(f"s{score}", score=score) for score in (1.1, 2.0, 7.0)))
    html = (await client.get("/anomalies")).text
    for level, shape in (("weak", "<circle"), ("clear", "<path"), ("strong", "<rect")):
        (mark,) = re.findall(rf'<a href="/anomalies/\d+" class="mark {level}".*?</a>', html, re.DOTALL)
        assert shape in mark
        assert f"<title>{level}: p95 of s" in mark
    assert "7.0 strong" in text_of(html)


async def test_filters_are_in_the_url_and_a_fragment_is_a_part_of_the_page(
    client: Client, context: QueryContext
) -> None:
    await store(context, an_anomaly("shop"), an_anomaly("pay", figure="rate"), an_anomaly("before", ago=500))
    assert "of before" not in (await client.get("/anomalies")).text
    week = text_of((await client.get("/anomalies?range=7d")).text)
    assert all(name in week for name in ("of shop", "of pay", "of before"))
    own = text_of((await client.get("/anomalies?service=pay")).text)
    assert "p95 of pay was long" in own
    assert "p95 of shop" not in own
    assert "p95 of pay" not in text_of((await client.get("/anomalies?figure=p95")).text)
    fragment = (await client.get("/anomalies", headers=FRAGMENT)).text
    assert "<html" not in fragment
    assert 'id="view"' in fragment


async def test_hostile_names_are_inert(client: Client, context: QueryContext) -> None:
    await store(context, an_anomaly(HOSTILE, figure="metric", metric=HOSTILE))
    html = (await client.get("/anomalies")).text
    assert "<script>alert" not in html
    assert HOSTILE in unescape(html)
    (anomaly,) = await list_anomalies(context)
    html = (await client.get(f"/anomalies/{anomaly.id}")).text
    assert "<script>alert" not in html


async def test_an_empty_page_says_what_is_watched(context: QueryContext) -> None:
    async with page_client(context, page.handlers, watched=Watched(watch_of(context))) as client:
        text = text_of((await client.get("/anomalies")).text)
    assert "Nothing unusual in this range." in text
    assert "after a day of data" in text


async def test_detectors_of_ones_own_have_their_state(context: QueryContext, tmp_path: Path) -> None:
    runs = DetectorRuns(context, cast(MetadataStore, context.metadata), tmp_path)
    runs.states = (
        DetectorState("good", "", 0.25, END_MS),
        DetectorState("<b>bad</b>", "ValueError: <script>", None, END_MS),
    )
    async with page_client(context, page.handlers, watched=Watched(None, runs)) as client:
        html = (await client.get("/anomalies")).text
    assert "<script>" not in re.sub(r"<script defer src|<script src", "", html)
    text = text_of(html)
    assert "good counts 0.25" in text
    assert "<b>bad</b> refused ValueError: <script> –" in text


async def test_more_than_are_listed_are_said_so(
    client: Client, context: QueryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LISTED_MAX", 3)
    monkeypatch.setattr(page, "ROWS_MAX", 2)
    await store(context, *(an_anomaly(f"s{n}") for n in range(4)))
    text = text_of((await client.get("/anomalies")).text)
    assert "the latest 3;" in text
    assert "1 more services are in the table only" in text


@pytest.mark.parametrize(
    "query", ["range=x", "figure=<b>", "service=" + "x" * 3000, "service=%00%ff", "range=7d&figure=&service="]
)
async def test_parameters_may_be_anything(client: Client, query: str) -> None:
    assert (await client.get(f"/anomalies?{query}")).status_code == 200


@pytest.mark.parametrize("anomaly_id", ["0", "77", "-1", "9" * 30])
async def test_an_unknown_one_is_not_found(client: Client, anomaly_id: str) -> None:
    assert (await client.get(f"/anomalies/{anomaly_id}")).status_code == 404


async def test_every_number_of_an_anomaly_can_be_computed_from_its_page(client: Client, context: QueryContext) -> None:
    values = calm()
    values[-30:-20] = 400
    await write(context, "shop's", "queue.depth", values, unit="jobs")
    await watch_of(context).advance()
    (anomaly,) = await list_anomalies(context)
    html = (await client.get(f"/anomalies/{anomaly.id}")).text
    query, snippet = (unescape(text) for text in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", html, re.DOTALL))
    text = text_of(html)

    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["score"] == pytest.approx(anomaly.evidence["score"])
    assert f"Score {names['score']:.2f} " in text
    assert names["expected"] == pytest.approx(anomaly.expected, rel=1e-5)
    assert (names["low"], names["high"]) == (
        pytest.approx(anomaly.low, rel=1e-5), pytest.approx(anomaly.high, rel=1e-5),
    )  # fmt: skip
    assert f"Expected {quantity(names['expected'], 'jobs')} {quantity(names['low'], 'jobs')} to " in text

    table = await context.store.select(compile_query(query, now_ms=END_MS).query, deadline_s=30)
    (value,) = table.column("value")
    assert value == pytest.approx(anomaly.value)
    assert f"Value {quantity(value, 'jobs')} " in text
    for pair in anomaly.evidence["pairs"]:
        apart = (np.array(pair["state"]) - np.array(pair["nearest"])) / np.array(pair["range"])
        share = np.hypot(*apart) / max(0.15, 2 * pair["usual"]) / 3
        assert f"{np.hypot(*apart):.3f} {pair['usual']:.3f} {share:.3f}" in text


@pytest.mark.parametrize("mode", ["sigma", "robust"])
async def test_a_plain_rule_is_computed_from_its_page(client: Client, context: QueryContext, mode: str) -> None:
    values = calm()
    values[-30:-20] = 400
    await write(context, "shop", "queue.depth", values, unit="jobs")
    await watch_of(context, mode=mode).advance()
    anomaly = next(row for row in await list_anomalies(context) if row.value == 400)
    html = (await client.get(f"/anomalies/{anomaly.id}")).text
    _, snippet = (unescape(text) for text in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", html, re.DOTALL))
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["score"] == pytest.approx(anomaly.evidence["score"])
    assert names["low"] == pytest.approx(anomaly.low)
    assert f"Score {names['score']:.2f} " in text_of(html)


@pytest.mark.parametrize("fields", [{}, {"mode": "own"}, {"expected": None, "low": None, "high": None}])
async def test_one_without_evidence_has_a_page(client: Client, context: QueryContext, fields: dict[str, Any]) -> None:
    await store(context, replace(an_anomaly(), **fields))
    (anomaly,) = await list_anomalies(context)
    assert (await client.get(f"/anomalies/{anomaly.id}")).status_code == 200


async def test_the_chart_has_what_was_expected(client: Client, context: QueryContext) -> None:
    values = calm()
    values[-30:-20] = 400
    await write(context, "shop", "queue.depth", values)
    await watch_of(context).advance()
    (anomaly,) = await list_anomalies(context, time_range=TimeRange(0, END_MS))
    html = (await client.get(f"/anomalies/{anomaly.id}")).text
    (options,) = re.findall(r'data-chart="(.*?)"', html)
    assert '"band":[2,3]' in unescape(options)
