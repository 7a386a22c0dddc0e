"""Celery: tasks that are sent and run, in real workers on a real broker, and that neither notices."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import celery
import pytest

import vantage_agent
from tests.agent.instrumentation.recorded import Recorded
from tests.agent.receiver import Receiver, receiving
from vantage_agent._tracer import tracer

Start = Callable[..., Recorded]
HOME = str(Path(vantage_agent.__file__).parents[1])
STOP_TIMEOUT_S = 30
SECRET = type("Secret", (), {"__repr__": lambda _: "secret"})()  # can be no argument
OWN = f"00-{'ab' * 16}-{'cd' * 8}-01"
TASKS = """
    import vantage_agent

    vantage_agent.init_agent("worker", auto_instrument="all", flush_interval_s=600)

    import os
    from celery import Celery
    from celery.exceptions import Ignore, Reject

    app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
    app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, task_acks_late=True)

    @app.task
    def add(a, b):
        return a + b

    @app.task
    def fail(text):
        raise ValueError(text)

    @app.task(bind=True)
    def again(self):
        if not self.request.retries:
            raise self.retry(countdown=0)
        return dict(self.request.headers or {}).get("mine"), self.request.retries

    @app.task(bind=True)
    def ignore(self):
        self.update_state(state="SEEN")
        raise Ignore

    @app.task
    def hand_on(a):
        with vantage_agent.span("inside"):
            return add.delay(a, 1).id
"""


@dataclass
class Ran:
    """Everything that the sender and the worker recorded, after both have ended."""

    outer: tuple[str, str]  # trace and span
    results: dict[str, Any]
    sender: Receiver
    worker: Receiver

    def spans(self, receiver: Receiver, name: str = "") -> list[dict[str, Any]]:
        result = [span for sent in receiver.sent for span in sent.packed.get("spans", ())]
        return sorted((span for span in result if name in ("", span["name"])), key=lambda span: span["start_ns"])

    def tags(self, receiver: Receiver, metric: str) -> list[dict[str, str]]:
        result = [
            (name, {key: text for key, text in tags.items() if key not in ("instance", "service_version")})
            for sent in receiver.sent
            for name, _, _, tags in sent.packed["series"]
        ]
        return [tags for name, tags in result if name == metric]


@contextlib.contextmanager
def working(pool: str, folder: Path, environ: dict[str, str]) -> Iterator[None]:
    """A worker, until it has ended as a supervisor would end it."""
    (folder / "tasks.py").write_text(textwrap.dedent(TASKS))
    kind, _, by_run = pool.partition(" by ")
    command = [sys.executable, "-m", "vantage_agent", "run", "--"] if by_run else []
    command += [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", kind, "-c", "2", "-l", "WARNING"]
    command += ["--without-gossip", "--without-mingle"]
    path = f"{HOME}{os.pathsep}{folder}"
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environ, "PYTHONPATH": path}, stdout=output, stderr=output
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_TIMEOUT_S) == 0, (folder / "output").read_text()
    # No warning of the agent's, and no fault that passed through it.
    assert "vantage_agent" not in (folder / "output").read_text()


def exercised(app: celery.Celery) -> tuple[tuple[str, str], dict[str, Any]]:
    results: dict[str, Any] = {}
    with vantage_agent.span("outer") as outer:
        ids = outer.trace_id, outer.span_id
        task = app.send_task("tasks.add", (1, 2))
        results["add"] = task.get(timeout=30)
    failed = app.send_task("tasks.fail", ("secret1",), kwargs={})
    with pytest.raises(ValueError, match="secret1"):
        failed.get(timeout=30)
    headers = {"mine": "secret2"}
    results["again"] = app.send_task("tasks.again", headers=headers).get(timeout=30)
    assert headers == {"mine": "secret2"}
    ignored = app.send_task("tasks.ignore", task_id="secret3")
    handed = app.send_task("tasks.hand_on", (5,)).get(timeout=30)
    results["handed"] = app.AsyncResult(handed).get(timeout=30)
    results["own"] = app.send_task("tasks.add", (3, 4), headers={"traceparent": OWN}).get(timeout=30)
    while ignored.state != "SEEN":
        time.sleep(0.01)
    return ids, results


@pytest.fixture(scope="module", params=["solo", "prefork", "gevent", "gevent by run"])
def ran(request: pytest.FixtureRequest, redis_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    pool = request.param
    folder = tmp_path_factory.mktemp(pool.replace(" ", "-"))
    broker, backend = (f"redis://127.0.0.1:{redis_port}/{database}" for database in (5, 6))
    with receiving() as at_sender, receiving() as at_worker:
        vantage_agent.shutdown(0)
        vantage_agent.init_agent("sender", at_sender.url, auto_instrument="all", flush_interval_s=600)
        app = celery.Celery("sender", broker=broker, backend=backend, set_as_current=False)
        environ = {"BROKER": broker, "BACKEND": backend, "VANTAGE_AGENT_COLLECTOR_URL": at_worker.url}
        with working(pool, folder, environ):
            outer, results = exercised(app)
            gc.collect()  # results that are waited for have a connection
        app.backend.client.close()
        app.close()
        vantage_agent.shutdown(5)
        yield Ran(outer, results, at_sender, at_worker)


def test_results_are_the_tasks_own(ran: Ran) -> None:
    assert ran.results == {"add": 3, "again": ["secret2", 1], "handed": 6, "own": 7}


def test_what_is_sent_is_a_span_and_a_duration(ran: Ran) -> None:
    sent = ran.spans(ran.sender, "send tasks.add")[0]
    assert (sent["kind"], sent["status"]) == ("producer", "unset")
    assert (sent["trace_id"], sent["parent_span_id"]) == ran.outer
    assert sent["attributes"] == {
        "messaging.system": "celery",
        "messaging.operation.type": "send",
        "celery.task_name": "tasks.add",
    }
    recorded = ran.tags(ran.sender, "celery.publish.duration")
    assert {tags["task"] for tags in recorded} == {
        "tasks.add",
        "tasks.fail",
        "tasks.again",
        "tasks.ignore",
        "tasks.hand_on",
    }
    assert all(set(tags) == {"task"} for tags in recorded)


def test_what_is_run_is_a_part_of_the_trace_that_sent_it(ran: Ran) -> None:
    sent, run = ran.spans(ran.sender, "send tasks.add")[0], ran.spans(ran.worker, "process tasks.add")[0]
    assert (run["kind"], run["status"], run["trace_id"]) == ("consumer", "unset", ran.outer[0])
    assert run["parent_span_id"] == sent["span_id"]
    assert run["attributes"] == {
        "messaging.system": "celery",
        "messaging.operation.type": "process",
        "celery.task_name": "tasks.add",
        "celery.state": "SUCCESS",
    }


def test_each_task_is_recorded_with_its_final_state(ran: Ran) -> None:
    recorded = ran.tags(ran.worker, "celery.task.duration")
    unique = {tuple(sorted(tags.items())) for tags in recorded}
    assert unique == {
        (("state", "SUCCESS"), ("task", "tasks.add")),
        (("error", "true"), ("error_type", "ValueError"), ("state", "FAILURE"), ("task", "tasks.fail")),
        (("state", "RETRY"), ("task", "tasks.again")),
        (("state", "SUCCESS"), ("task", "tasks.again")),
        (("state", "IGNORED"), ("task", "tasks.ignore")),
        (("state", "SUCCESS"), ("task", "tasks.hand_on")),
    }
    (failed,) = ran.spans(ran.worker, "process tasks.fail")
    assert (failed["status"], failed["attributes"]["error.type"]) == ("error", "ValueError")


def test_a_task_that_is_tried_again_is_sent_by_the_first_try(ran: Ran) -> None:
    first, second = ran.spans(ran.worker, "process tasks.again")
    (sent,) = ran.spans(ran.worker, "send tasks.again")
    assert (sent["parent_span_id"], second["parent_span_id"]) == (first["span_id"], sent["span_id"])
    assert first["trace_id"] == sent["trace_id"] == second["trace_id"]


def test_a_task_that_another_one_sends_belongs_to_that(ran: Ran) -> None:
    (outer,) = ran.spans(ran.worker, "process tasks.hand_on")
    (inside,) = ran.spans(ran.worker, "inside")
    (sent,) = ran.spans(ran.worker, "send tasks.add")
    run = next(span for span in ran.spans(ran.worker, "process tasks.add") if span["trace_id"] == outer["trace_id"])
    assert [inside["parent_span_id"], sent["parent_span_id"], run["parent_span_id"]] == [
        outer["span_id"],
        inside["span_id"],
        sent["span_id"],
    ]


def test_a_traceparent_of_the_application_is_preserved(ran: Ran) -> None:
    (run,) = [span for span in ran.spans(ran.worker, "process tasks.add") if span["trace_id"] == "ab" * 16]
    assert run["parent_span_id"] == "cd" * 8


def test_commands_of_the_broker_are_not_recorded(ran: Ran) -> None:
    for receiver in (ran.sender, ran.worker):
        spans = ran.spans(receiver)
        redis = [span for span in spans if span.get("attributes", {}).get("db.system.name") == "redis"]
        # Results are recorded: they are in another database than messages.
        assert {span["attributes"]["db.namespace"] for span in redis} <= {"6"}
        sent = {span["span_id"] for span in spans if span["kind"] == "producer"}
        assert not [span for span in redis if span.get("parent_span_id") in sent]
    parents = {span["span_id"] for span in ran.spans(ran.worker) if span["kind"] == "consumer"}
    stored = [span for span in ran.spans(ran.worker) if span.get("attributes", {}).get("db.system.name") == "redis"]
    assert stored
    assert {span["parent_span_id"] for span in stored} <= parents


def test_nothing_of_arguments_results_headers_or_ids_is_sent(ran: Ran) -> None:
    for receiver in (ran.sender, ran.worker):
        assert "secret" not in repr([sent.packed for sent in receiver.sent])


@pytest.fixture
def app() -> Iterator[celery.Celery]:
    with celery.Celery("sender", broker="memory://", set_as_current=False) as sender:
        yield sender


@pytest.fixture
def eager() -> celery.Celery:
    app = celery.Celery("eager", set_as_current=False)
    app.conf.task_always_eager = True
    return app


def test_a_task_that_runs_in_process_is_a_child_of_the_current_span(start: Start, eager: celery.Celery) -> None:
    recorded = start("celery")

    @eager.task(name="tasks.in_place")
    def in_place() -> int:
        return 7

    with vantage_agent.span("outer") as outer:
        ids = outer.trace_id, outer.span_id
        assert in_place.delay().get() == 7
    (run,) = [span for span in recorded.spans if span["kind"] == "consumer"]
    assert (run["trace_id"], run["parent_span_id"]) == ids
    assert recorded.tags("celery.publish.duration") == []


@pytest.mark.parametrize("name", ["secret one", "secret@mail", "s" * 300, "", "sécret"])
def test_invalid_task_names_are_not_sent(start: Start, app: celery.Celery, name: str) -> None:
    recorded = start("celery")
    app.send_task(name, ignore_result=True)
    assert recorded.tags("celery.publish.duration") == [{"task": "_OTHER"}]
    assert "cret" not in recorded.text
    assert "sss" not in recorded.text


def test_what_cannot_be_sent_is_an_error_and_the_applications_own(start: Start, app: celery.Celery) -> None:
    def attempt(*args: Any, **options: Any) -> tuple[type, str]:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is what is compared
            app.send_task(*args, **options)
        return type(caught.value), str(caught.value)

    wrong: list[Any] = [
        lambda: attempt("tasks.add", (SECRET,), ignore_result=True),
        lambda: attempt("tasks.add", "secret", ignore_result=True),
        lambda: attempt("tasks.add", headers=7, ignore_result=True),
        lambda: attempt("tasks.add", countdown="secret"),
        attempt,
    ]
    without = [action() for action in wrong]
    recorded = start("celery")
    assert [action()[0] for action in wrong] == [kind for kind, _ in without]
    assert [action() for action in wrong[:-1]] == without[:-1]
    assert recorded.tags("celery.publish.duration")[0]["error_type"] == "kombu.exceptions.EncodeError"
    assert "secret" not in recorded.text


def test_faults_of_the_agent_do_not_reach_the_application(
    start: Start, app: celery.Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of the agent's")

    @app.task(name="tasks.in_place")
    def in_place() -> int:
        return 7

    start("celery")
    for method in ("begin", "end", "deactivate"):
        with monkeypatch.context() as patch:
            patch.setattr(tracer, method, broken)
            assert copy_context().run(in_place.apply).get() == 7
            assert copy_context().run(app.send_task, "tasks.add", ignore_result=True)


def test_after_the_end_of_the_agent_tasks_are_plain(start: Start, eager: celery.Celery) -> None:
    recorded = start("celery")

    @eager.task(name="tasks.in_place")
    def in_place() -> int:
        if tracer.on:
            vantage_agent.shutdown()  # in the middle of it
        return 7

    assert in_place.delay().get() == 7
    assert in_place.delay().get() == 7
    vantage_agent.init_agent("my-api", recorded.receiver.url)
    assert recorded.tags("celery.task.duration") == []
