"""redis, sync and async: the spans of commands, nothing else is sent, the application sees no difference."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
import redis
import redis.asyncio
import sqlalchemy
from redis.backoff import NoBackoff
from redis.retry import Retry

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.support.programs import free_port
from vantage_agent._redis import command_name
from vantage_agent._tracer import tracer

Start = Callable[..., Recorded]
NO_RETRY = Retry(NoBackoff(), 0)


class RedisClient(Protocol):
    def do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """``client.method(...)``."""

    def pipeline(self, *commands: tuple[Any, ...], transaction: bool = True, watch: str = "") -> Any:
        """The answers. What is watched is got before."""


class Plain:
    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)

    def do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.client, method)(*args, **kwargs)

    def pipeline(self, *commands: tuple[Any, ...], transaction: bool = True, watch: str = "") -> Any:
        with self.client.pipeline(transaction=transaction) as pipeline:
            if watch:
                pipeline.watch(watch)
                pipeline.get(watch)
                pipeline.multi()
            for name, *args in commands:
                getattr(pipeline, name)(*args)
            return pipeline.execute()

    def close(self) -> None:
        self.client.close()


class Async:
    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.client = redis.asyncio.Redis.from_url(url)

    def do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            return await getattr(self.client, method)(*args, **kwargs)

        return self.runner.run(call(), context=contextvars.copy_context())

    def pipeline(self, *commands: tuple[Any, ...], transaction: bool = True, watch: str = "") -> Any:
        async def call() -> Any:
            async with self.client.pipeline(transaction=transaction) as pipeline:
                if watch:
                    await pipeline.watch(watch)
                    await pipeline.get(watch)
                    pipeline.multi()
                for name, *args in commands:
                    getattr(pipeline, name)(*args)
                return await pipeline.execute()

        return self.runner.run(call(), context=contextvars.copy_context())

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


@pytest.fixture(params=[Plain, Async], ids=["plain", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(kind: Any, redis_port: int) -> Iterator[RedisClient]:
    with contextlib.closing(kind(f"redis://127.0.0.1:{redis_port}/3")) as client:
        client.do("flushdb")
        yield client


def test_a_command_is_a_span_and_a_duration(start: Start, client: RedisClient, redis_port: int) -> None:
    recorded = start("redis")
    assert client.do("set", "a", "b") is True
    assert client.do("get", "a") == b"b"
    peer = {"db.system.name": "redis", "peer": f"127.0.0.1:{redis_port}"}
    assert recorded.database == [{**peer, "operation": "SET"}, {**peer, "operation": "GET"}]
    first, second = recorded.spans
    assert (first["name"], second["name"], first["kind"], first["status"]) == ("SET", "GET", "client", "unset")
    assert first["attributes"] == {
        "db.system.name": "redis",
        "db.operation.name": "SET",
        "db.namespace": "3",
        "server.address": "127.0.0.1",
        "server.port": str(redis_port),
    }
    values_ms = [value for name, _, value in recorded.samples if name == "db.client.operation.duration"]
    assert values_ms == [span["duration_ns"] / 1e6 for span in (first, second)]


def test_commands_are_parts_of_the_span_around_them(start: Start, client: RedisClient) -> None:
    recorded = start("redis")
    with vantage_agent.span("outer") as outer:
        trace_id, span_id = outer.trace_id, outer.span_id
        client.do("get", "a")
        client.pipeline(("get", "a"))
    inner = [span for span in recorded.spans if span["name"] != "outer"]
    assert [(span["trace_id"], span["parent_span_id"]) for span in inner] == [(trace_id, span_id)] * 2


@pytest.mark.parametrize("transaction", [True, False])
def test_a_pipeline_is_one_call(start: Start, client: RedisClient, *, transaction: bool) -> None:
    recorded = start("redis")
    assert client.pipeline(("set", "a", "1"), ("incr", "a"), ("get", "a"), transaction=transaction) == [True, 2, b"2"]
    assert client.pipeline(transaction=transaction) == []  # sends nothing
    assert [span["name"] for span in recorded.spans] == ["PIPELINE"]


def test_immediate_commands_of_a_pipeline_are_recorded(start: Start, client: RedisClient) -> None:
    recorded = start("redis")
    assert client.pipeline(("set", "a", "1"), watch="a") == [True]
    assert [span["name"] for span in recorded.spans] == ["WATCH", "GET", "PIPELINE"]


def test_a_script_is_one_call_inside_a_pipeline_too(start: Start, client: RedisClient) -> None:
    recorded = start("redis")
    assert client.do("eval", "return 'secret'", 0) == b"secret"
    assert [span["name"] for span in recorded.spans] == ["EVAL"]
    assert "secret" not in recorded.text


def test_an_error_of_the_server_is_recorded_with_its_type(start: Start, client: RedisClient) -> None:
    recorded = start("redis")
    client.do("set", "secret1", "secret2")
    with pytest.raises(redis.ResponseError):
        client.do("lpush", "secret1", "secret3")
    with pytest.raises(redis.ResponseError):
        client.pipeline(("incr", "secret1"))
    assert [tags.get("error_type") for tags in recorded.database] == [None, *["redis.exceptions.ResponseError"] * 2]
    assert [span["status"] for span in recorded.spans] == ["unset", "error", "error"]
    assert "secret" not in recorded.text


def test_a_server_that_is_not_there_is_an_error(start: Start, kind: Any) -> None:
    recorded = start("redis")
    port = free_port()
    with contextlib.closing(kind(f"redis://127.0.0.1:{port}/0")) as client, pytest.raises(redis.ConnectionError):
        client.do("get", "a")
    (tags,) = recorded.database
    assert (tags["peer"], tags["error_type"]) == (f"127.0.0.1:{port}", "redis.exceptions.ConnectionError")


def test_nothing_of_a_command_but_its_name_is_sent(
    start: Start, client: RedisClient, kind: Any, redis_port: int
) -> None:
    recorded = start("redis")
    with contextlib.closing(kind(f"redis://:secret0@127.0.0.1:{redis_port}/3")) as client:
        client.do("get", "a")
    with contextlib.closing(kind(f"redis://127.0.0.1:{redis_port}/3")) as client:
        client.do("hset", "secret1", mapping={"secret2": "secret3"})
        client.do("execute_command", "GET secret4")
        client.do("execute_command", b"get", "secret5")
        client.do("config_get", "secret6")
        client.pipeline(("set", "secret7", "secret8"), ("mget", ["secret9"]))
        for wrong in ("secret10", "SECRET11 a", "get\nsecret12", "s" * 100):
            with contextlib.suppress(redis.RedisError):
                client.do("execute_command", wrong)
    operations = [span["name"] for span in recorded.spans]
    assert {tags["operation"] for tags in recorded.database} == {*operations}
    assert operations[:6] == ["GET", "HSET", "GET", "GET", "CONFIG", "PIPELINE"]
    assert operations[6:] == ["_OTHER", "_OTHER", "GET", "_OTHER"]
    assert "secret" not in recorded.text.lower()
    assert "sss" not in recorded.text.lower()


def test_blocking_commands_and_subscriptions_are_not_instrumented(
    start: Start, client: RedisClient, redis_port: int
) -> None:
    client.do("rpush", "list", "1", "2")
    client.do("xadd", "stream", {"a": "b"})
    recorded = start("redis")
    assert list(client.do("blpop", ["list"], timeout=1)) == [b"list", b"1"]
    assert client.do("execute_command", "brpop", "list", 1)
    assert client.do("xread", {"stream": 0}, block=10)
    assert client.do("xread", {"stream": 0})
    with redis.Redis(port=redis_port) as connection, connection.pubsub() as subscription:
        subscription.subscribe("secret")
        assert (subscription.get_message(timeout=5) or {})["type"] == "subscribe"
    assert [tags["operation"] for tags in recorded.database] == ["XREAD"]
    assert "secret" not in recorded.text


def test_a_command_inside_a_statement_is_another_call(start: Start, client: RedisClient) -> None:
    recorded = start("redis", "sqlalchemy")
    engine = sqlalchemy.create_engine("sqlite://")
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *_: client.do("get", "a"))
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
    engine.dispose()
    outer, inner = recorded.spans[-2:]
    assert (outer["name"], inner["name"], inner["parent_span_id"]) == ("SELECT", "GET", outer["span_id"])


def test_nonsense_fails_as_it_does_without_an_agent(start: Start, client: RedisClient) -> None:
    def attempt(*args: Any) -> tuple[type, str]:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is what is compared
            client.do("execute_command", *args)
        return type(caught.value), str(caught.value)

    wrong: list[tuple[Any, ...]] = [(), (None,), (object(),), ("SET", "a", object()), ("XREAD", object())]
    without = [attempt(*args)[0] for args in wrong]
    start("redis")
    assert [attempt(*args)[0] for args in wrong] == without


def test_faults_of_the_agent_do_not_reach_the_application(
    start: Start, client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of the agent's")

    start("redis")
    for method in ("begin", "end", "deactivate"):
        with monkeypatch.context() as patch:
            patch.setattr(tracer, method, broken)
            assert contextvars.copy_context().run(client.do, "get", "a") is None
            assert contextvars.copy_context().run(client.pipeline, ("get", "a")) == [None]
            with pytest.raises(redis.ResponseError):
                contextvars.copy_context().run(client.do, "execute_command", "NONSENSE")


def test_after_the_end_of_the_agent_commands_are_plain(start: Start, client: RedisClient) -> None:
    recorded = start("redis")
    vantage_agent.shutdown()
    assert client.do("get", "a") is None
    assert client.pipeline(("get", "a")) == [None]
    vantage_agent.init_agent("my-api", recorded.receiver.url)
    assert recorded.database == []


def test_an_agent_that_ends_while_a_command_runs_harms_nothing(
    start: Start, client: RedisClient, redis_port: int
) -> None:
    start("redis")
    result: list[Any] = []
    with contextlib.closing(redis.Redis(port=redis_port)) as other:
        other.execute_command("CLIENT PAUSE", 60_000, "WRITE")
        thread = threading.Thread(target=lambda: result.append(client.do("set", "a", "b")))
        thread.start()
        thread.join(0.1)
        assert result == []
        vantage_agent.shutdown()
        other.execute_command("CLIENT UNPAUSE")
    thread.join()
    assert result == [True]


async def test_commands_of_tasks_side_by_side_are_parts_of_the_same_span(start: Start, redis_port: int) -> None:
    recorded = start("redis")
    async with redis.asyncio.Redis(port=redis_port) as client:
        with vantage_agent.span("outer") as outer:
            span_id = outer.span_id
            await asyncio.gather(*(client.get("a") for _ in range(5)))
            await client.execute_command("CLIENT PAUSE", 60_000, "WRITE")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.set("a", "b"), 0.05)
            await client.execute_command("CLIENT UNPAUSE")
    spans = [span for span in await asyncio.to_thread(lambda: recorded.spans) if span["kind"] == "client"]
    assert [span["parent_span_id"] for span in spans if span["name"] == "GET"] == [span_id] * 5
    (cancelled,) = [span for span in spans if span["name"] == "SET"]
    assert (cancelled["status"], cancelled["attributes"]["cancelled"]) == ("unset", "true")


def test_the_default_address_and_a_socket_in_the_file_system(start: Start) -> None:
    recorded = start("redis")
    for client in (
        redis.Redis(port=free_port(), retry=NO_RETRY),
        redis.Redis(unix_socket_path="/nowhere/secret.sock", retry=NO_RETRY),
    ):
        with contextlib.closing(client), pytest.raises(redis.ConnectionError):
            client.get("a")
    assert [tags.get("peer", "").partition(":")[0] for tags in recorded.database] == ["localhost", ""]
    assert {span["attributes"]["db.namespace"] for span in recorded.spans} == {"0"}
    assert "secret" not in recorded.text


@pytest.mark.parametrize(
    ("command", "recorded"),
    [
        ("GET", "GET"),
        ("get", "GET"),
        ("CONFIG GET", "CONFIG"),
        ("JSON.GET", "JSON.GET"),
        ("secret", "_OTHER"),
        (" ", "_OTHER"),
    ],
)
def test_the_name_of_a_command_is_of_a_closed_list(command: str, recorded: str) -> None:
    assert command_name(command) == recorded
