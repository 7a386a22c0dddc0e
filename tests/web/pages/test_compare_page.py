"""The pages of comparisons: what they show can be worked out from the query and the program on the page."""

import contextlib
import io
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import Client, page_client, page_context
from tests.support.samples import NOW_MS, a_series
from vantage.core.batch import build_batch
from vantage.core.errors import InputError
from vantage.core.sample import Kind
from vantage.query.compare import Comparisons
from vantage.query.compare import compare as compare_values
from vantage.query.context import QueryContext
from vantage.query.vql import run_vql
from vantage.web.api import compare as api
from vantage.web.pages import compare

HOSTILE = "<script>alert('x')</script>\u202e\U0001f600\"'"


@pytest.fixture
async def context() -> AsyncIterator[QueryContext]:
    async with page_context() as context:
        yield context


@pytest.fixture
async def client(context: QueryContext) -> AsyncIterator[Client]:
    comparisons = Comparisons(context, context.metadata)  # type: ignore[arg-type]
    async with page_client(context, [*compare.handlers, *api.handlers], comparisons=comparisons) as client:
        yield client


async def fill(
    context: QueryContext, *, count: int = 400, hostile: str = "/b", unit: str = "ms", seed: int = 1
) -> None:
    chance = np.random.default_rng(seed)
    rows = []
    for version, factor in (("1", 1.0), ("2", 0.8)):
        for at_ms in sorted((NOW_MS - chance.integers(1, 3_000_000, count)).tolist()):
            route = str(chance.choice(["/a", hostile]))
            tags = {"http.route": route, "status": "500" if chance.random() < 0.02 else "200"}
            series = a_series(
                "api", "http.request.duration", Kind.HISTOGRAM, tags=tags, unit=unit, service_version=version
            )
            rows.append((series, at_ms, float(chance.lognormal(4, 0.4)) * factor * (3 if route == "/a" else 1)))
    await write_batch(context, build_batch(rows))


async def compared(client: Client, **values: str) -> str:
    form = {"form": "versions", "service": "api", "candidate_version": "2", "length": "1h", **values}
    response = await client.post("/compare", data=form)
    assert response.status_code == 200, response.text  # after its redirect
    return response.text


def codes(page: str) -> list[str]:
    return [unescape(code) for code in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page, re.S)]


@pytest.mark.parametrize("unit", ["ms", "s"])
@pytest.mark.parametrize("form", ["versions", "windows"])
async def test_the_program_on_the_page_gives_the_numbers_on_the_page(
    client: Client, context: QueryContext, form: str, unit: str
) -> None:
    await fill(context, unit=unit)
    page = await compared(
        client,
        form=form,
        baseline_start="now-1h",
        baseline_end="now-30m",
        candidate_start="now-30m",
    )
    baseline, candidate, program = codes(page)
    samples = [list((await run_vql(context, query, {})).table.rows()) for query in (baseline, candidate)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program, {"baseline": samples[0], "candidate": samples[1]})
    (comparison_id,) = re.findall(r'href="/api/comparisons/([^"]+)"', page)
    document: dict[str, Any] = (await client.get(f"/api/comparisons/{comparison_id}")).json()
    change = document["change"]
    assert printed.getvalue().splitlines() == [
        f"mean {document['baseline']['mean']:.6g} -> {document['candidate']['mean']:.6g}",
        f"change {change['pct']:.4g} %",
        f"95 % interval {change['interval_pct'][0]:.4g} to {change['interval_pct'][1]:.4g} %",
        f"p {change['p_value']:.4g}",
    ]


async def test_a_comparison_is_listed_with_its_verdict(client: Client, context: QueryContext) -> None:
    await fill(context)
    assert "No comparison was made yet" in (await client.get("/compare")).text
    page = await compared(client)
    assert "<strong>DEPLOY</strong>" in page
    assert "lower is better" in page
    listed = (await client.get("/compare")).text
    assert "api 2 against api without 2" in listed
    assert "DEPLOY" in listed


async def test_names_are_text(client: Client, context: QueryContext) -> None:
    await fill(context, hostile=HOSTILE)
    page = await compared(client)
    assert "<script>alert" not in page
    assert HOSTILE in unescape(page)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"candidate_version": ""}, "version is empty"),
        ({"form": "services", "other": ""}, "candidate is empty"),
        ({"form": "services", "other": "api", "candidate_version": ""}, "is the same as the baseline"),
        ({"form": "windows", "baseline_start": "soon"}, "baseline start is no time"),
        ({"form": "windows", "baseline_end": "now"}, "overlaps the baseline"),
        ({"service": "a/b"}, "baseline service"),
        ({"metric": "a b"}, "metric name"),
        ({"candidate_version": "x" * 300}, "longer than 255"),
    ],
)
async def test_a_form_that_cannot_be_answered_says_why(
    client: Client, context: QueryContext, values: dict[str, str], problem: str
) -> None:
    await fill(context, count=50)
    form = {"form": "versions", "service": "api", "candidate_version": "2", "length": "1h", **values}
    response = await client.post("/compare", data=form)
    assert response.status_code == 400
    assert problem in unescape(response.text)


async def test_a_comparison_that_is_not_there_is_not_found(client: Client) -> None:
    assert (await client.get("/compare/nothing")).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"candidate_service": "api"}, "candidate_service"),
        ({"candidate_service": "b", "time_start": 5, "time_end": 3}, "time_end"),
        ({"candidate_service": "b", "metric_name": "running"}, "metric_name"),
        ({"candidate_service": "b", "metrics": []}, "metrics"),
        ({"candidate_service": "b", "metrics": ["a", "a"]}, "metrics"),
        ({"candidate_service": "b", "direction": {"other": "lower"}}, "direction.other"),
        ({"candidate_service": "b", "planned_end": "now-2d"}, "planned_end"),
        ({"candidate_service": "b", "expected_candidate_share": 1.5}, "expected_candidate_share"),
        ({"candidate_service": "b", "match": "\x00"}, "match"),
        ({"candidate_service": "b" * 300}, "candidate_service"),
        ({"candidate_service": "b", "metric_name": "events"}, "metric_name"),
    ],
)
async def test_a_request_that_cannot_be_answered_names_the_field(
    context: QueryContext, body: dict[str, Any], field: str
) -> None:
    for metric, kind in (("running", Kind.CUMULATIVE), ("events", Kind.COUNTER)):
        await write_batch(context, build_batch([(a_series("api", metric, kind), NOW_MS - 1000, 1.0)]))
    data = msgspec.convert({"baseline_service": "api", **body}, api.CompareServicesIn)
    with pytest.raises(InputError) as caught:
        await compare_values(context, api.services_request(data, now_ms=NOW_MS))
    assert caught.value.field == field


async def test_the_wire_format_of_the_first_example(client: Client, context: QueryContext) -> None:
    rows = []
    for service, value in (("api-v1", 240.0), ("api-v2", 190.0)):
        series = a_series(service, "http.request.duration", Kind.HISTOGRAM, unit="ms")
        rows += [(series, 1_703_001_234_000 + 250 * number, value + number % 50) for number in range(400)]
    await write_batch(context, build_batch(rows))
    response = await client.post(
        "/compare/services",
        json={
            "baseline_service": "api-v1",
            "candidate_service": "api-v2",
            "metric_name": "http.request.duration",
            "time_start": 1703001234,
            "time_end": 1703001334,
        },
    )
    answer = response.json()
    assert response.status_code == 200
    assert answer["baseline"]["mean"] == pytest.approx(264.5)
    assert answer["improvement_pct"] == round(100 * 50 / 264.5, 1)
    assert answer["statistical_significance"] is True
    assert answer["recommendation"].startswith("DEPLOY - candidate shows significant improvement")
