"""urllib3, what it has besides: headers from several places, retries, and libraries on top of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import urllib3

from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import Upstream
from tests.agent.instrumentation.test_clients import with_requests, with_urllib3
from vantage_agent._semconv import http_server
from vantage_agent._tracer import tracer

Start = Callable[..., Recorded]
Ask = Callable[..., Any]


def test_headers_that_are_somebodys_else_are_copied(start: Start, upstream: Upstream) -> None:
    start("urllib3")
    pool = urllib3.connection_from_url(upstream.url, headers={"X-Pool": "1"})
    manager = urllib3.PoolManager(headers=urllib3.HTTPHeaderDict({"X-Manager": "1"}))
    several = urllib3.HTTPHeaderDict([("X-A", "1"), ("X-A", "2")])
    with pool, manager:
        pool.urlopen("GET", "/")
        pool.urlopen("GET", "/", None, None)
        assert pool.urlopen("GET", "/redirect", None, several, 1, False).status == 302
        manager.urlopen("GET", upstream.url)
        manager.urlopen("GET", upstream.url, headers=several)
        manager.urlopen("GET", upstream.url, headers=None)
        assert dict(pool.headers) == {"X-Pool": "1"}
        assert dict(manager.headers) == {"X-Manager": "1"}
    assert several.getlist("X-A") == ["1", "2"]
    assert "traceparent" not in several
    assert len({*upstream.traceparents}) == 6
    assert all(upstream.traceparents)
    received = [headers for _, _, headers in upstream.requests]
    assert [headers.get("x-pool") for headers in received] == ["1", "1", None, None, None, None]
    assert [headers.get("x-manager") for headers in received] == [None, None, None, "1", None, None]


def test_a_traceparent_in_bytes_or_of_the_pool_is_preserved(start: Start, upstream: Upstream) -> None:
    start("urllib3")
    own = f"00-{'ab' * 16}-{'cd' * 8}-01"
    with urllib3.connection_from_url(upstream.url, headers={"Traceparent": own}) as pool:
        pool.urlopen("GET", "/")
        pool.urlopen("GET", "/", headers={b"TraceParent": own})  # type: ignore[dict-item]
    assert upstream.traceparents == [own, own]


def test_the_state_of_the_trace_goes_along(start: Start, upstream: Upstream) -> None:
    start("urllib3")
    span = tracer.begin(http_server, "server", f"00-{'ab' * 16}-{'cd' * 8}-01", "a=1")
    with urllib3.PoolManager() as manager:
        manager.request("GET", upstream.url)
    tracer.finish(span)
    ((_, _, headers),) = upstream.requests
    assert headers["tracestate"] == "a=1"
    assert headers["traceparent"][3:35] == "ab" * 16


def test_retries_are_one_call(start: Start, upstream: Upstream) -> None:
    recorded = start("urllib3")
    retries = urllib3.Retry(2, status_forcelist=[503], raise_on_status=False)
    with urllib3.PoolManager() as manager:
        manager.request("GET", f"{upstream.url}/status/503", retries=retries)
    assert len(upstream.requests) == 3
    assert len({*upstream.traceparents}) == 1
    assert [tags["status"] for tags in recorded.client] == ["503"]


@pytest.mark.parametrize("ask", [with_requests, with_urllib3])
def test_a_library_on_top_is_one_call(start: Start, upstream: Upstream, ask: Ask) -> None:
    recorded = start("all")
    ask("GET", f"{upstream.url}/redirect")
    assert len({*upstream.traceparents}) == 1
    assert len(recorded.client) == 1
    (span,) = [span for span in recorded.spans if span["kind"] == "client"]
    assert span["span_id"] in upstream.traceparents[0]


def test_requests_that_is_not_instrumented_is_measured_below(start: Start, upstream: Upstream) -> None:
    recorded = start("urllib3")
    response = with_requests("GET", upstream.url)
    assert all(upstream.traceparents)
    assert "traceparent" not in response.request.headers
    assert recorded.client == [{"method": "GET", "peer": upstream.address, "status": "200"}]


def test_through_a_proxy_the_peer_is_the_target(start: Start, upstream: Upstream) -> None:
    recorded = start("urllib3")
    with urllib3.ProxyManager(upstream.url) as proxy:
        proxy.request("GET", "http://far.example:81/x")
        proxy.connection_from_host("far.example", 81, "http").urlopen(
            "GET", "http://far.example:81/x", assert_same_host=False
        )
    assert [path for _, path, _ in upstream.requests] == ["http://far.example:81/x"] * 2
    assert [tags["peer"] for tags in recorded.client] == ["far.example:81"] * 2


def test_the_address_of_a_pool_is_recorded_as_in_a_url(start: Start) -> None:
    recorded = start("urllib3")
    pools = [
        urllib3.HTTPConnectionPool("::1", 1),
        urllib3.HTTPConnectionPool("[::1]"),
        urllib3.HTTPSConnectionPool("127.0.0.1", 443),
    ]
    for pool in pools:
        pool.close()
        with pytest.raises(urllib3.exceptions.ClosedPoolError):
            pool.urlopen("GET", "/")
    assert [tags["peer"] for tags in recorded.client] == ["::1:1", "::1", "127.0.0.1"]


def test_a_streamed_answer_stays_lazy(start: Start, upstream: Upstream) -> None:
    recorded = start("urllib3")
    with urllib3.PoolManager() as manager:
        response = manager.request("GET", f"{upstream.url}/stream", preload_content=False, timeout=5)
        assert response.read(1) == b"a"  # the second is not sent before
        assert len(recorded.client) == 1
        upstream.hold.set()
        assert response.read(1) == b"b"
        response.release_conn()
