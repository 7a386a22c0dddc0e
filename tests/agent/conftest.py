"""An agent never outlives its test, and finds a server that records what it is sent."""

import os
from collections.abc import Iterator

import pytest

import vantage_agent
from tests.agent.receiver import Receiver, receiving
from vantage_agent._context import current


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def no_agent_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("VANTAGE_AGENT_"):
            monkeypatch.delenv(name)
    vantage_agent.shutdown(0)
    yield
    vantage_agent.shutdown(2)


@pytest.fixture(autouse=True)
def no_span_is_left() -> Iterator[None]:
    yield
    left = current.get()
    current.set(None)  # only one test should fail for it
    assert left is None
