"""Spans that end in any order, context, thread or generator: none that has ended is anybody's parent."""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.receiver import Receiver
from tests.agent.test_processes import python
from vantage_agent import span
from vantage_agent._context import current, running
from vantage_agent._request import begin_request, end_request, leave_request
from vantage_agent._span import Span, internal
from vantage_agent._tracer import tracer

ROUNDS = 2000 if os.environ.get("VANTAGE_TEST_LONG") else 60
STEPS = 60


@pytest.fixture
def recorded(receiver: Receiver) -> Recorded:
    vantage_agent.init_agent("my-api", receiver.url, flush_interval_s=600, auto_instrument=["logging"])
    return Recorded(receiver)


class Program:
    """Begins and ends spans at random, in several contexts, generators and threads."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.contexts = [contextvars.Context()]
        self.open: list[tuple[Span, bool]] = []  # with whether it is a request
        self.generators: list[Generator[None, None, None]] = []

    def step(self) -> None:
        context = self.chance.choice(self.contexts)
        action = self.chance.choice(
            (self.begin, self.begin, self.begin_request, self.end, self.end, self.fork_context, self.generator)
        )
        if self.chance.random() < 0.2:
            thread = threading.Thread(target=context.run, args=(action,))
            thread.start()
            thread.join()
        else:
            context.run(action)
        for each in self.contexts:
            each.run(self.check)

    def check(self) -> None:
        now = running()
        assert now is None or now.duration_ns < 0

    def begin(self) -> None:
        before = running()
        made = tracer.begin(internal, "internal")
        made.name = "x"
        assert made.parent_id == ("" if before is None else before.span_id)
        assert running() is made
        self.open.append((made, False))

    def begin_request(self) -> None:
        made = begin_request({}, "GET")
        assert made.parent_id == ""
        self.open.append((made, True))

    def end(self) -> None:
        if self.open:
            made, is_request = self.open.pop(self.chance.randrange(len(self.open)))
            if is_request:
                end_request(made)
                leave_request(made)
            else:
                tracer.end(made, measured=False)
                tracer.deactivate(made)

    def fork_context(self) -> None:
        if len(self.contexts) < 6:
            self.contexts.append(contextvars.copy_context())

    def generator(self) -> None:
        if self.generators and self.chance.random() < 0.5:
            chosen = self.generators.pop(self.chance.randrange(len(self.generators)))
            if self.chance.random() < 0.5:
                chosen.close()
            else:
                next(chosen, None)
            return
        made = self.spanning() if self.chance.random() < 0.5 else span("decorated")(self.spanning)()
        next(made)
        self.generators.append(made)

    def spanning(self) -> Generator[None, None, None]:
        with span("in a generator"):
            yield

    def finish(self) -> None:
        while self.open:
            self.end()
        for made in self.generators:
            made.close()


@pytest.mark.usefixtures("recorded")
def test_no_order_of_begins_and_ends_leaves_an_ended_span_running() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    for number in range(ROUNDS):
        program = Program(random.Random(f"{seed}-{number}"))
        for _ in range(STEPS):
            program.step()
        contextvars.Context().run(program.finish)
        for context in program.contexts:
            assert context.run(running) is None


@pytest.mark.usefixtures("recorded")
def test_a_chain_of_overlapping_spans_does_not_keep_its_past() -> None:
    chance: list[Span] = []
    for _ in range(100):
        chance.append(tracer.begin(internal, "internal"))
        if len(chance) > 1:
            first = chance.pop(0)
            tracer.end(first, measured=False)
            tracer.deactivate(first)
    length, now = 0, chance[0].outer
    while now is not None:
        length, now = length + 1, now.outer
    tracer.end(chance[0], measured=False)
    tracer.deactivate(chance[0])
    assert length <= 2
    assert running() is None


def test_a_thread_hands_a_span_over_to_another(recorded: Recorded) -> None:
    handed = span("handed")
    handed.__enter__()

    def end() -> None:
        handed.__exit__(None, None, None)
        with span("in the other thread"):
            pass

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert running() is None
    with span("afterwards"):
        pass
    assert ["parent_span_id" in each for each in recorded.spans] == [False, False, False]
    current.set(None)


def test_work_that_begins_after_its_span_has_ended_is_no_part_of_it(recorded: Recorded) -> None:
    may_run = threading.Event()

    def work() -> None:
        with span("late"):
            pass

    vantage_agent.shutdown()
    vantage_agent.init_agent("my-api", recorded.receiver.url, flush_interval_s=600, auto_instrument=["logging"])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(may_run.wait, 10)
        with span("outer"), span("inner"):
            pool.submit(work)
        may_run.set()
    (late,) = [each for each in recorded.spans if each["name"] == "late"]
    assert "parent_span_id" not in late


def test_a_generator_read_to_its_end_elsewhere_is_no_parent_here(recorded: Recorded) -> None:
    def pieces() -> Iterator[int]:
        with span("pieces"):
            yield 1
            yield 2

    with span("outer"):
        first, second = pieces(), pieces()
        next(first), next(second)
        first.close()  # type: ignore[attr-defined]
        second.close()  # type: ignore[attr-defined]
        with span("after"):
            pass
    spans = {each["name"]: each for each in recorded.spans}
    assert spans["after"]["parent_span_id"] == spans["outer"]["span_id"]
    assert running() is None


async def test_a_stream_left_in_asyncio_is_no_error_and_no_parent(recorded: Recorded) -> None:
    @span("decorated")
    async def decorated() -> Any:
        with span("piece"):
            yield 1
        yield 2

    async for _ in decorated():
        with span("between"):
            pass
        break
    await asyncio.sleep(0)
    await asyncio.get_running_loop().shutdown_asyncgens()
    spans = {each["name"]: each for each in await asyncio.to_thread(lambda: recorded.spans)}
    assert {each["status"] for each in spans.values()} == {"unset"}
    assert spans["piece"]["parent_span_id"] == spans["decorated"]["span_id"]
    assert "parent_span_id" not in spans["between"]


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        with span("work"), vantage_agent.timer("t"):
            raise error

    return work


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GeneratorExit(), "unset"),
        (asyncio.CancelledError(), "unset"),
        (SystemExit(0), "unset"),
        (SystemExit(None), "unset"),
        (SystemExit(1), "error"),
        (KeyboardInterrupt(), "error"),
        (ValueError(), "error"),
    ],
    ids=repr,
)
def test_what_is_a_failure(recorded: Recorded, error: BaseException, status: str) -> None:
    with suppress(BaseException):
        raising(error)()
    assert recorded.spans[0]["status"] == status
    assert ("error_type" in recorded.tags("t")[0]) is (status == "error")


def test_a_child_that_was_forked_in_a_span_begins_without_it(receiver: Receiver) -> None:
    done = python(
        """
        import os, sys
        import vantage_agent as v
        v.init_agent("s", runtime_metrics=False, flush_interval_s=600)
        with v.span("outer"):
            pid = os.fork()
            with v.span("child" if not pid else "parent"):
                pass
        if pid:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        """,
        VANTAGE_AGENT_COLLECTOR_URL=receiver.url,
    )
    assert (done.returncode, done.stderr) == (0, "")
    spans = {each["name"]: each for each in receiver.spans()}
    assert len(receiver.spans("outer")) == 1
    assert "parent_span_id" not in spans["child"]
    assert spans["parent"]["parent_span_id"] == spans["outer"]["span_id"]
