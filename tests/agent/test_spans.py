"""Manual spans, timers and tags, and which traces are recorded."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import vantage_agent
from tests.agent.receiver import Receiver
from vantage_agent import set_tags, span, timer
from vantage_agent._context import current
from vantage_agent._span import PENDING_MAX
from vantage_agent._tracer import SLOWEST_MAX, SLOWEST_SPANS_MAX, tracer


@pytest.fixture
def start(receiver: Receiver) -> Callable[..., None]:
    def begin(**more: Any) -> None:
        vantage_agent.init_agent("s", receiver.url, instance="i", flush_interval_s=600, **more)

    return begin


def sent_spans(receiver: Receiver) -> dict[str, dict[str, Any]]:
    """By name."""
    assert vantage_agent.flush(5)
    spans = receiver.spans()
    by_name = {recorded_span["name"]: recorded_span for recorded_span in spans}
    assert len(by_name) == len(spans)
    return by_name


def test_spans_inside_spans_are_one_trace(receiver: Receiver, start: Callable[..., None]) -> None:
    start()
    before_ns = time.time_ns()
    with span("outer", kind="server", attributes={"a": 1}) as outer:
        with span("inner"):
            time.sleep(0.01)
        with span("second"):
            pass
        assert len(outer.trace_id) == 32
    with span("other"):
        pass
    result = sent_spans(receiver)
    assert result["outer"]["span_id"] == result["inner"]["parent_span_id"] == result["second"]["parent_span_id"]
    assert result["outer"]["trace_id"] == result["inner"]["trace_id"] != result["other"]["trace_id"]
    assert "parent_span_id" not in result["outer"]
    assert (result["outer"]["kind"], result["inner"]["kind"]) == ("server", "internal")
    assert result["outer"]["attributes"] == {"a": "1"}
    assert result["inner"]["duration_ns"] >= 10_000_000
    assert result["outer"]["duration_ns"] >= result["inner"]["duration_ns"]
    assert before_ns <= result["outer"]["start_ns"] <= time.time_ns()


def test_an_exception_marks_its_spans_and_passes_through(receiver: Receiver, start: Callable[..., None]) -> None:
    start()
    error = KeyError("k")
    with pytest.raises(KeyError) as caught, span("outer"), span("inner"):
        raise error
    assert caught.value is error
    with span("handled") as handled:
        handled.set_error(TimeoutError())
    with span("well"):
        pass
    result = sent_spans(receiver)
    assert {name: recorded_span["status"] for name, recorded_span in result.items()} == {
        "outer": "error",
        "inner": "error",
        "handled": "error",
        "well": "unset",
    }
    attributes = result["inner"]["attributes"]
    assert (attributes["error.type"], attributes["exception.type"]) == ("KeyError", "KeyError")
    assert attributes["exception.message"] == "'k'"


async def test_tasks_belong_to_the_span_they_were_made_in(receiver: Receiver, start: Callable[..., None]) -> None:
    start()

    async def work(name: str) -> None:
        async with span(name):
            await asyncio.sleep(0.01)
            with span(f"{name}.inner"):
                await asyncio.sleep(0.01)

    async with span("outer"):
        await asyncio.gather(*(work(f"task{i}") for i in range(5)))
    result = sent_spans(receiver)
    for i in range(5):
        assert result[f"task{i}"]["parent_span_id"] == result["outer"]["span_id"]
        assert result[f"task{i}.inner"]["parent_span_id"] == result[f"task{i}"]["span_id"]


def test_threads_have_traces_of_their_own(receiver: Receiver, start: Callable[..., None]) -> None:
    start()

    def work(i: int) -> None:
        with span(f"outer{i}"), span(f"inner{i}"):
            time.sleep(0.001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(100)))
    result = sent_spans(receiver)
    assert len({recorded_span["trace_id"] for recorded_span in result.values()}) == 100
    for i in range(100):
        assert result[f"inner{i}"]["parent_span_id"] == result[f"outer{i}"]["span_id"]


def test_a_decorated_function_stays_what_it_is() -> None:
    @span("function")
    def function(a: int, *, b: int = 2) -> int:
        """Adds."""
        return a + b

    @span("coroutine")
    async def coroutine(a: int) -> int:
        return a

    @timer("generator")
    def generator(n: int) -> Iterator[int]:
        yield from range(n)

    @span("stream")
    async def stream() -> AsyncIterator[int]:
        yield 1

    assert (function(1), function(1, b=5), function.__doc__, function.__name__) == (3, 6, "Adds.", "function")
    assert list(inspect.signature(function).parameters) == ["a", "b"]
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(stream)
    assert asyncio.run(coroutine(4)) == 4
    assert list(generator(3)) == [0, 1, 2]
    with pytest.raises(TypeError):
        function()  # type: ignore[call-arg]


def test_a_decorated_method_that_calls_itself_is_a_span_a_call(receiver: Receiver, start: Callable[..., None]) -> None:
    start()

    class Tree:
        @span("visit")
        def visit(self, depth: int) -> int:
            return 1 if depth == 0 else 1 + self.visit(depth - 1)

    assert Tree().visit(3) == 4
    assert vantage_agent.flush()
    spans = receiver.spans("visit")
    parents = {recorded_span["span_id"]: recorded_span.get("parent_span_id") for recorded_span in spans}
    assert len(parents) == 4
    assert sum(parent is None for parent in parents.values()) == 1
    assert {parent for parent in parents.values() if parent} < set(parents)


async def test_a_decorated_coroutine_may_run_many_times_at_once(receiver: Receiver, start: Callable[..., None]) -> None:
    start()
    slept_ns: dict[str, int] = {}

    @span("work")
    async def work(i: int) -> int:
        running = current.get()
        assert running is not None
        before_ns = time.perf_counter_ns()
        await asyncio.sleep(0.02 * (i % 3))
        slept_ns[running.span_id] = time.perf_counter_ns() - before_ns
        assert current.get() is running
        return i

    assert await asyncio.gather(*(work(i) for i in range(20))) == list(range(20))
    assert vantage_agent.flush()
    assert {recorded_span["span_id"] for recorded_span in receiver.spans("work")} == set(slept_ns)
    assert len(slept_ns) == 20
    for recorded_span in receiver.spans("work"):
        assert 0 <= recorded_span["duration_ns"] - slept_ns[recorded_span["span_id"]] < 15_000_000


def test_a_decorated_generator_is_lazy_and_lasts_until_its_end(receiver: Receiver, start: Callable[..., None]) -> None:
    start()
    got: list[Any] = []

    @span("generator")
    def generator() -> Generator[int, str, str]:
        got.append((yield 1))
        yield 2
        return "result"

    running = generator()
    assert got == []
    assert next(running) == 1
    assert current.get() is None  # what runs in between is not a part of it
    with span("between"):
        assert running.send("sent") == 2
    with pytest.raises(StopIteration) as end:
        next(running)
    assert (end.value.value, got) == ("result", ["sent"])
    closed = generator()
    next(closed)
    closed.close()
    failing = generator()
    next(failing)
    with pytest.raises(OSError, match="thrown"):
        failing.throw(OSError("thrown"))
    assert vantage_agent.flush()
    assert len(receiver.spans("generator")) == 3
    assert "parent_span_id" not in receiver.spans("between")[0]


def test_one_object_may_be_entered_again_while_it_runs(receiver: Receiver, start: Callable[..., None]) -> None:
    start()
    again = span("again")
    with again:
        outer_id = again.span_id
        with again:
            assert again.span_id != outer_id
        assert again.span_id == outer_id
    assert current.get() is None
    assert vantage_agent.flush()
    assert len(receiver.spans("again")) == 2


def test_without_an_agent_nothing_happens_and_everything_works() -> None:
    assert not tracer.on
    with span("a") as recorded_span, timer("b"):
        set_tags({"c": "d"})
        recorded_span.set_attribute("e", "f")
        recorded_span.set_error("g")
        assert (recorded_span.trace_id, recorded_span.span_id) == ("", "")
        assert current.get() is None


@pytest.mark.parametrize("begin_with_agent", [True, False])
def test_an_agent_that_comes_or_goes_while_a_span_runs_does_no_harm(
    receiver: Receiver, start: Callable[..., None], *, begin_with_agent: bool
) -> None:
    if begin_with_agent:
        start()
    with span("a"), timer("b"):
        if begin_with_agent:
            vantage_agent.shutdown()
        else:
            start()
        set_tags({"c": "d"})
    assert current.get() is None


def test_a_timer_is_one_observation_in_milliseconds(receiver: Receiver, start: Callable[..., None]) -> None:
    start()
    with timer("t", tags={"shop": "berlin"}):
        time.sleep(0.02)
    with pytest.raises(ValueError, match="x"), timer("t"):
        raise ValueError("x")

    @timer("t.coroutine")
    async def work() -> None:
        await asyncio.sleep(0.02)

    asyncio.run(work())
    assert vantage_agent.flush()
    assert {(name, kind, unit) for name, kind, unit, _ in receiver.sent[0].packed["series"]} == {
        ("t", "histogram", "ms"),
        ("t.coroutine", "histogram", "ms"),
    }
    assert receiver.tags("t") == [{"shop": "berlin"}, {"error_type": "ValueError"}]
    assert 20 <= receiver.values("t")[0] < 5000
    assert receiver.values("t.coroutine")[0] >= 19


def application(environ: Any, start_response: Any) -> Any:
    set_tags({"plan": environ["plan"]})
    start_response(environ["status"], [])
    return []


def request(status: str = "200 OK", plan: str = "free", method: str = "GET", **more: str) -> None:
    environ = {"REQUEST_METHOD": method, "status": status, "plan": plan, **more}
    vantage_agent.instrument_wsgi(application)(environ, lambda *_: None)


def test_tags_of_a_request_are_those_of_its_sample_and_its_span(receiver: Receiver, start: Callable[..., None]) -> None:
    start()
    set_tags({"nowhere": "x"})
    request(plan="gold")
    assert vantage_agent.flush()
    (tags,) = receiver.tags("http.request.duration")
    (recorded_span,) = receiver.spans()
    assert tags == {"method": "GET", "status": "200", "plan": "gold"}
    assert recorded_span["attributes"]["plan"] == "gold"


def test_unsampled_traces_with_an_error_and_the_slowest_of_each_kind_are_recorded(
    receiver: Receiver, start: Callable[..., None]
) -> None:
    start(trace_sample_rate=0)
    for i in range(30):
        with span(f"kind{i % 3}") as recorded_span:
            recorded_span.set_attribute("i", i)
            with span(f"child{i}"):
                time.sleep(0.03 if i in (3, 10, 17) else 0)
    with pytest.raises(OSError, match="no"), span("failing"):
        with span("failing.child"):
            pass
        raise OSError("no")
    with span("caught"):
        try:
            with span("caught.child"):
                raise OSError("no")
        except OSError:
            pass
    result = sent_spans(receiver)
    assert set(result) == {
        *("kind0", "child3", "kind1", "child10", "kind2", "child17"),
        *("failing", "failing.child", "caught", "caught.child"),
    }
    assert {result[f"kind{k}"]["attributes"]["i"] for k in range(3)} == {"3", "10", "17"}
    for k, i in ((0, 3), (1, 10), (2, 17)):
        assert result[f"child{i}"]["parent_span_id"] == result[f"kind{k}"]["span_id"]
    assert "dropped" not in receiver.sent[0].packed
    with span("kind0"):
        pass
    assert len(sent_spans_of(receiver, "kind0")) == 2  # the slowest of another interval


def sent_spans_of(receiver: Receiver, name: str) -> list[Any]:
    assert vantage_agent.flush()
    return receiver.spans(name)


def test_durations_of_every_request_are_recorded_at_any_sample_rate(
    receiver: Receiver, start: Callable[..., None]
) -> None:
    start(trace_sample_rate=0)
    for _ in range(50):
        request()
    request("500 Internal Server Error")
    assert vantage_agent.flush()
    assert len(receiver.values("http.request.duration")) == 51
    assert len(receiver.spans()) == 2  # the slowest and the failed one


def test_a_sample_rate_of_a_quarter_records_about_a_quarter_by_trace_id(
    receiver: Receiver, start: Callable[..., None]
) -> None:
    start(trace_sample_rate=0.25)
    for _ in range(2000):
        with span("one"):
            pass
    spans = sent_spans_of(receiver, "one")
    below = [recorded_span for recorded_span in spans if int(recorded_span["trace_id"][-14:], 16) < 0.25 * (1 << 56)]
    assert len(spans) - len(below) <= 1  # the slowest
    assert 400 < len(below) < 600  # six standard deviations


def test_the_caller_decides_for_the_trace(receiver: Receiver, start: Callable[..., None]) -> None:
    start(trace_sample_rate=0)
    trace_id = "ab" * 16
    for _ in range(3):
        request(HTTP_TRACEPARENT=f"00-{trace_id}-{'cd' * 8}-01")
    assert vantage_agent.flush()
    assert [recorded_span["trace_id"] for recorded_span in receiver.spans()] == [trace_id] * 3
    vantage_agent.shutdown()
    receiver.sent.clear()
    start(trace_sample_rate=1)
    for _ in range(3):
        request(HTTP_TRACEPARENT=f"00-{trace_id}-{'cd' * 8}-00")
    assert vantage_agent.flush()
    assert len(receiver.spans()) == 1  # the slowest


def links(receiver: Receiver) -> list[tuple[str, float, str]]:
    """Metric, value and trace of each sample that is linked to one."""
    result = []
    for sent in receiver.sent:
        packed = sent.packed
        for index, _, values, *rest in packed["samples"]:
            for position, trace_id, _ in rest[0] if rest else []:
                result.append((packed["series"][index][0], values[position], trace_id))
    return result


def test_a_series_has_one_exemplar_per_batch_the_largest_of_a_recorded_trace(
    receiver: Receiver, start: Callable[..., None]
) -> None:
    start()
    for _ in range(20):
        request()
    request(method="POST")
    assert vantage_agent.flush()
    result = links(receiver)
    assert len(result) == 2
    durations = receiver.values("http.request.duration")
    assert max(durations) in {value for _, value, _ in result}
    assert {trace_id for _, _, trace_id in result} <= {recorded_span["trace_id"] for recorded_span in receiver.spans()}


def test_ids_that_the_application_gave_are_all_sent(receiver: Receiver, start: Callable[..., None]) -> None:
    start()
    for i in range(5):
        vantage_agent.histogram("own", i, trace_id=f"trace{i}", span_id="s")
    vantage_agent.histogram("own", 9)
    assert vantage_agent.flush()
    assert links(receiver) == [("own", i, f"trace{i}") for i in range(5)]


def test_no_exemplar_names_an_unrecorded_trace(receiver: Receiver, start: Callable[..., None]) -> None:
    start(trace_sample_rate=0)
    for _ in range(20):
        request()
    assert vantage_agent.flush()
    stored = {recorded_span["trace_id"] for recorded_span in receiver.spans()}
    assert {trace_id for _, _, trace_id in links(receiver)} <= stored


def test_pending_spans_are_bounded(receiver: Receiver, start: Callable[..., None]) -> None:
    start(trace_sample_rate=0)
    with span("wide"):
        for _ in range(PENDING_MAX + 7):
            with span("child"):
                pass
    for i in range(SLOWEST_MAX + 20):
        with span(f"kind{i}"):
            for _ in range(100):
                with span("child"):
                    pass
    assert len(tracer._slowest) == SLOWEST_MAX
    assert tracer._slowest_spans <= SLOWEST_SPANS_MAX
    assert tracer._slowest_spans == sum(len(root.pending or ()) for root in tracer._slowest.values())
    assert vantage_agent.flush()
    dropped = receiver.sent[0].packed["dropped"]["trace_too_large"]
    assert dropped > 7


def test_spans_of_many_threads_without_sampling_are_all_accounted_for(
    receiver: Receiver, start: Callable[..., None]
) -> None:
    start(trace_sample_rate=0)

    def work() -> None:
        for i in range(200):
            with span(f"kind{i % 5}"), span("child"):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        vantage_agent.flush()
    assert vantage_agent.flush()
    roots = {recorded_span["span_id"] for recorded_span in receiver.spans() if recorded_span["name"] != "child"}
    children = receiver.spans("child")
    assert len(children) == len(roots)
    assert {child["parent_span_id"] for child in children} == roots
    assert not tracer._slowest


@pytest.mark.parametrize(
    "nonsense",
    [None, 5, b"x", object(), [], {}, "x" * 10_000, "\ud800"],
    ids=lambda recorded_span: f"{recorded_span!r:.9}",
)
def test_nonsense_never_reaches_the_application(receiver: Receiver, start: Callable[..., None], nonsense: Any) -> None:
    start()
    for recorded_span in (
        lambda: span(nonsense),
        lambda: span("s", kind=nonsense),
        lambda: span("s", attributes=nonsense),
        lambda: timer(nonsense),
        lambda: timer("t", tags=nonsense),
    ):
        with recorded_span():
            set_tags(nonsense)
            set_tags({nonsense if isinstance(nonsense, str) else "k": nonsense})
    with span("good") as good:
        good.set_attributes(nonsense)
        good.set_attribute(nonsense, nonsense)
        good.set_error(nonsense)
    assert vantage_agent.flush()
    received = receiver.sent[0].received
    assert "good" in {recorded_span.name for recorded_span in received.batch.spans}


async def test_a_cancelled_span_is_ended(receiver: Receiver, start: Callable[..., None]) -> None:
    start()

    async def work() -> None:
        async with span("cancelled"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)  # until it waits
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    result = sent_spans(receiver)
    assert (result["cancelled"]["status"], result["cancelled"]["attributes"]) == ("unset", {"cancelled": "true"})
