"""Work that takes longer than a request: one of its kind at a time, with its progress for those who look."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from vantage.core.clock import Clock
from vantage.core.errors import ConflictError, VantageError

ENDED_MAX: Final = 10
Progress = Callable[[int, int], None]  # how much is done, of how much; may be called from any thread
_log = structlog.get_logger("vantage.query")


@dataclass(slots=True)
class Job:
    """``share`` of it is done, from 0 to 1, None where that is unknown. ``outcome`` says how it ended."""

    kind: str
    title: str
    actor: str
    began_ms: int
    state: Literal["running", "done", "failed"] = "running"
    share: float | None = None
    outcome: str = ""
    ended_ms: int = 0


class LongWork:
    """The jobs of one process. They are lost with it, as is what they had not finished."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._ended: deque[Job] = deque(maxlen=ENDED_MAX)

    @property
    def jobs(self) -> Sequence[Job]:
        """Return what runs, and the latest that ended, the newest first."""
        return [*(job for job, _ in reversed(self._running.values())), *self._ended]

    def start(self, kind: str, title: str, work: Callable[[Progress], Awaitable[str]], *, actor: str) -> Job:
        """Begin work that returns its outcome in words. Raises ConflictError while another of its kind runs."""
        if kind in self._running:
            raise ConflictError(f"{self._running[kind][0].title} is not over yet", field=kind)
        job = Job(kind, title, actor, self._clock.now_ms())

        def progress(done: int, total: int) -> None:
            job.share = done / total if total else None

        self._running[kind] = job, asyncio.create_task(self._run(job, work(progress)))
        return job

    async def _run(self, job: Job, work: Awaitable[str]) -> None:
        try:
            job.outcome, job.state = await work, "done"
        except VantageError as error:
            job.outcome, job.state = str(error), "failed"
        except Exception:  # noqa: BLE001 - the log says what it was; nobody awaits this task
            _log.exception("long work failed", kind=job.kind)
            job.outcome, job.state = "failed for a reason that is in the log", "failed"
        finally:
            job.ended_ms = self._clock.now_ms()
            self._running.pop(job.kind, None)
            self._ended.appendleft(job)
