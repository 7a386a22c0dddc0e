"""Shared views: one computation a second however many look, never one from before a change, bounded in memory."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from vantage.web.views import Rendering, SharedViews


class Page:
    """A page whose number of computations is its text. It is computed while ``gate`` is open."""

    def __init__(self) -> None:
        self.computed = self.rendered = self.cancelled = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def compute(self) -> dict[str, Any]:
        self.computed += 1
        number = self.computed
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {"number": number}

    def render(self, variables: Any) -> str:
        self.rendered += 1
        return "\n".join([f"line {line}" for line in range(50)] + [f"number {variables['number']}"])


class Ticks:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_all_who_look_within_a_second_share_one_computation_and_one_rendering(ticks: Ticks) -> None:
    views, page = SharedViews(ticks), Page()
    texts = await asyncio.gather(
        *(views.read("/", "page", page.compute, page.render, live=n % 2 > 0) for n in range(20))
    )
    assert len({rendering.etag for rendering in texts}) == 1
    await views.read("/", "page", page.compute, page.render)
    assert (page.computed, page.rendered) == (1, 1)


async def test_forms_share_the_computation_and_keys_do_not(ticks: Ticks) -> None:
    views, page = SharedViews(ticks), Page()
    for key, form in (("/", "page"), ("/", "fragment"), ("/?range=1h", "page")):
        await views.read(key, form, page.compute, page.render)
    assert (page.computed, page.rendered) == (2, 3)


async def test_after_a_tick_it_is_computed_again(ticks: Ticks) -> None:
    views, page = SharedViews(ticks), Page()
    for _ in range(3):
        await views.read("/", "page", page.compute, page.render)
        ticks.now += 1
    assert page.computed == 3


async def test_a_live_page_never_gets_what_was_begun_before_it_was_notified(ticks: Ticks) -> None:
    views, page = SharedViews(ticks), Page()
    page.gate.clear()
    first = asyncio.create_task(views.read("/", "fragment", page.compute, page.render))
    await until(lambda: page.computed == 1)
    ticks.now += 1
    notified = [
        asyncio.create_task(views.read("/", "fragment", page.compute, page.render, live=True)) for _ in range(5)
    ]
    opened = asyncio.create_task(views.read("/", "fragment", page.compute, page.render))
    await asyncio.sleep(0.01)
    page.gate.set()
    assert (await first).text.endswith("number 1")
    assert (await opened).text.endswith("number 1"), "who opens a page takes what is being computed"
    assert {(await task).text.rpartition("\n")[2] for task in notified} == {"number 2"}
    assert page.computed == 2


async def test_a_tab_that_says_what_it_has_gets_edits(ticks: Ticks) -> None:
    views, page = SharedViews(ticks), Page()
    first = await views.read("/", "fragment", page.compute, page.render, live=True)
    ticks.now += 1
    second = await views.read("/", "fragment", page.compute, page.render, live=True, has=first.etag)
    assert second.edits[first.etag] == b'{"length":%d,"edits":[[50,7,0,"2"]]}' % len(second.text)
    unknown = await views.read("/", "fragment", page.compute, page.render, live=True, has='"other"')
    assert '"other"' not in unknown.edits


async def test_a_failure_reaches_all_who_wait_and_not_remembered(ticks: Ticks) -> None:
    views, page = SharedViews(ticks), Page()

    async def fail() -> dict[str, Any]:
        await page.gate.wait()
        raise ValueError("no")

    page.gate.clear()
    waiting = [asyncio.create_task(views.read("/", "page", fail, page.render)) for _ in range(3)]
    await asyncio.sleep(0)
    page.gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no"] * 3
    assert (await views.read("/", "page", page.compute, page.render)).text.endswith("number 1")


async def test_it_goes_on_while_anybody_waits_and_stops_with_the_last(ticks: Ticks) -> None:
    views, page = SharedViews(ticks), Page()
    page.gate.clear()
    waiting = [asyncio.create_task(views.read("/", "page", page.compute, page.render)) for _ in range(2)]
    await until(lambda: page.computed == 1)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    assert page.cancelled == 0
    waiting[1].cancel()
    await asyncio.wait([waiting[1]])
    await until(lambda: page.cancelled == 1)
    page.gate.set()
    assert (await views.read("/", "page", page.compute, page.render)).text.endswith("number 2")


async def test_versions_take_no_more_than_the_limit(ticks: Ticks) -> None:
    views, page = SharedViews(ticks, nbytes_max=20_000), Page()
    for number in range(200):
        await views.read(f"/{number}", "fragment", page.compute, page.render, live=True)
    assert 0 < views.nbytes <= 20_000
    first = await views.read("/199", "fragment", page.compute, page.render, live=True)
    ticks.now += 1
    second = await views.read("/199", "fragment", page.compute, page.render, live=True, has=first.etag)
    assert first.etag in second.edits


def test_a_lone_surrogate_is_sent_as_a_question_mark() -> None:
    assert Rendering("\ud800").body == b"?"
