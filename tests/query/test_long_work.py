"""Long work: one of a kind at a time, progress, and how each ended."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.samples import MovedClock
from vantage.core.errors import ConflictError, StoreUnavailable
from vantage.query.long_work import ENDED_MAX, LongWork, Progress


async def test_progress_is_seen_and_the_outcome_stays() -> None:
    work, gate = LongWork(MovedClock()), asyncio.Event()

    async def copy(progress: Progress) -> str:
        progress(1, 4)
        await gate.wait()
        return "4 files"

    job = work.start("backup", "Backup", copy, actor="ann")
    await asyncio.sleep(0)
    assert (job.state, job.share) == ("running", 0.25)
    with pytest.raises(ConflictError, match="Backup is not over yet"):
        work.start("backup", "Backup", copy, actor="bob")
    gate.set()
    while job.state == "running":
        await asyncio.sleep(0)
    assert (job.state, job.outcome) == ("done", "4 files")
    assert list(work.jobs) == [job]
    work.start("backup", "Backup", copy, actor="bob")
    assert [item.actor for item in work.jobs] == ["bob", "ann"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoreUnavailable("the disk is full"), "the disk is full"),
        (RuntimeError("x"), "a reason that is in the log"),
    ],
)
async def test_what_fails_says_why_and_ends(error: Exception, outcome: str) -> None:
    work = LongWork(MovedClock())

    async def fail(_progress: Progress) -> str:
        raise error

    job = work.start("deletion", "Deletion", fail, actor="ann")
    while job.state == "running":
        await asyncio.sleep(0)
    assert job.state == "failed"
    assert outcome in job.outcome


async def test_only_the_latest_that_ended_are_listed() -> None:
    work = LongWork(MovedClock())

    async def nothing(_progress: Progress) -> str:
        return ""

    for number in range(ENDED_MAX + 5):
        job = work.start("deletion", f"Deletion {number}", nothing, actor="ann")
        while job.state == "running":
            await asyncio.sleep(0)
    assert [job.title for job in work.jobs][:2] == [f"Deletion {ENDED_MAX + 4}", f"Deletion {ENDED_MAX + 3}"]
    assert len(work.jobs) == ENDED_MAX
