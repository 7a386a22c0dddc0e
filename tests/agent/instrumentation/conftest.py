"""Fixtures: an agent with instrumentations, and a server for clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.instrumentation.servers import Upstream, upstream_server
from tests.agent.receiver import Receiver
from tests.support.databases import running_postgres, running_redis


@pytest.fixture
def start(receiver: Receiver) -> Callable[..., Recorded]:
    def init(*names: str, **more: Any) -> Recorded:
        vantage_agent.init_agent(
            "my-api",
            receiver.url,
            auto_instrument=names,
            **{"trace_sample_rate": 1.0, "flush_interval_s": 600, **more},
        )
        return Recorded(receiver)

    return init


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with upstream_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[int]:
    """Run PostgreSQL for all tests; yield its port. Its database may contain tables of other tests."""
    with running_postgres() as port:
        yield port


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    with running_redis() as port:
        yield port
