"""An agent with instrumentations, and a server for clients to ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import vantage_agent
from tests.agent.instrumentation.recorded import Told
from tests.agent.instrumentation.servers import Upstream, upstream_server
from tests.agent.receiver import Receiver
from tests.support.databases import running_postgres, running_redis


@pytest.fixture
def start(receiver: Receiver) -> Callable[..., Told]:
    def init(*names: str, **more: Any) -> Told:
        vantage_agent.init_agent(
            "my-api",
            receiver.url,
            auto_instrument=names,
            **{"trace_sample_rate": 1.0, "flush_interval_s": 600, **more},
        )
        return Told(receiver)

    return init


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with upstream_server() as one:
        yield one


@pytest.fixture(scope="session")
def postgres() -> Iterator[int]:
    """The port of a server that is empty, or where others left their own behind."""
    with running_postgres() as port:
        yield port


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    with running_redis() as port:
        yield port
