"""Views that several people look at: computed and rendered once for all of them, and never twice in one second.

Live pages are notified of changes once a second, all at the same time (``LiveUpdates.ticks``). So a view that was begun
since the last tick has everything that any of them was notified of.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from vantage.web.compression import gzipped
from vantage.web.edits import encode_edits

NBYTES_MAX: Final = 32 << 20
VERSIONS_MAX: Final = 4  # of a view, from which a tab may be brought up to date
VIEW_NBYTES: Final = 2048  # of a key and its objects
LOOK_S: Final = 2.0  # longer than a second of ticks
UNUSED_S: Final = 60.0
Variables = Mapping[str, Any]
T = TypeVar("T")


class Shared(Generic[T]):
    """One computation for all who wait for it; cancelled when nobody waits any more."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = asyncio.create_task(work)
        self._waiting = 0

    @property
    def is_of_use(self) -> bool:
        """Return whether it runs, or has a result."""
        if self._task.done():
            return not self._task.cancelled() and self._task.exception() is None
        return not self._task.cancelling()

    @property
    def is_running(self) -> bool:
        return not self._task.done()

    async def result(self) -> T:
        """Wait for the result. Raises what the computation raises."""
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if not self._waiting and not self._task.done():
                self._task.cancel()


class Rendering:
    """A text, its entity tag, and its bytes as they are sent."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.body = text.encode("utf-8", "replace")
        self.gzip = gzipped(self.body)
        self.etag = f'"{hashlib.blake2b(self.body, digest_size=12).hexdigest()}"'
        self.edits: dict[str, bytes | None] = {}  # by the entity tag that they begin at; None where they save little

    @property
    def nbytes(self) -> int:
        return 2 * len(self.body) + len(self.gzip)


@dataclass(slots=True)
class _Look:
    """One computation of a view's variables, and what was rendered of them."""

    tick: int
    variables: Shared[Variables]
    renderings: dict[str, Shared[Rendering]] = field(default_factory=dict)


@dataclass(slots=True)
class _View:
    """The latest look, and the versions that tabs may have: they are brought up to date from those."""

    used_s: float = 0.0
    look: _Look | None = None
    versions: deque[Rendering] = field(default_factory=lambda: deque(maxlen=VERSIONS_MAX))

    @property
    def nbytes(self) -> int:
        return VIEW_NBYTES + sum(version.nbytes for version in self.versions)


class SharedViews:
    """The views of one process. ``tick`` returns a number that changes once a second. Earlier versions take
    ``nbytes_max`` at most: the least recently seen go first. For one event loop."""

    def __init__(self, tick: Callable[[], int], *, nbytes_max: int = NBYTES_MAX) -> None:
        self._tick = tick
        self._nbytes_max = nbytes_max
        self._views: OrderedDict[Hashable, _View] = OrderedDict()
        self.nbytes = 0

    async def read(
        self,
        key: Hashable,
        form: str,
        compute: Callable[[], Coroutine[Any, Any, Variables]],
        render: Callable[[Variables], str],
        *,
        live: bool = False,
        has: str = "",
    ) -> Rendering:
        """Return a view in a ``form``, of which there may be several: rendered from what ``compute`` returns, both at
        most once a second for each ``key``. ``render`` is called in a thread.

        ``live``: for a page that was notified of changes, so that what was begun before them will not do; ``has`` is
        the entity tag of what it shows. Where that version is known, ``edits`` has what changed since. Raises what
        ``compute`` and ``render`` raise.
        """
        view = self._touch(key)
        look = await self._look(view, compute, live=live)
        variables = await look.variables.result()
        shared = look.renderings.get(form)
        if shared is None or not shared.is_of_use:
            shared = look.renderings[form] = Shared(asyncio.to_thread(lambda: Rendering(render(variables))))
        rendering = await shared.result()
        if live:
            await self._compare(key, view, rendering, has)
        return rendering

    async def _look(self, view: _View, compute: Callable[[], Coroutine[Any, Any, Variables]], *, live: bool) -> _Look:
        tick = self._tick()
        look = view.look
        if look is not None and live and look.variables.is_running and look.tick != tick:
            with contextlib.suppress(Exception):  # those who began it receive the error
                await look.variables.result()
            look = view.look  # perhaps somebody who waited as well has begun the next one
            tick = self._tick()
            if look is not None and look.variables.is_running:
                return look
        if look is None or not look.variables.is_of_use or (look.tick != tick and not look.variables.is_running):
            look = view.look = _Look(tick, Shared(compute()))
            asyncio.get_running_loop().call_later(LOOK_S, self._forget, view, look)
        return look

    async def _compare(self, key: Hashable, view: _View, rendering: Rendering, has: str) -> None:
        """Keep a version that a tab will have, and note what changed since the version ``has``."""
        if all(version.etag != rendering.etag for version in view.versions):
            before = view.nbytes
            view.versions.append(rendering)
            if self._views.get(key) is view:
                self.nbytes += view.nbytes - before
                self._evict()
        if has == rendering.etag or has in rendering.edits:
            return
        earlier = next((version for version in view.versions if version.etag == has), None)
        if earlier is not None:
            rendering.edits[has] = await asyncio.to_thread(encode_edits, earlier.text, rendering.text)

    def _touch(self, key: Hashable) -> _View:
        now_s = asyncio.get_running_loop().time()
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = _View()
            self.nbytes += view.nbytes
        view.used_s = now_s
        self._views.move_to_end(key)
        self._evict(unused_before_s=now_s - UNUSED_S)
        return view

    def _evict(self, *, unused_before_s: float = -math.inf) -> None:
        while self._views:
            key, oldest = next(iter(self._views.items()))
            if self.nbytes <= self._nbytes_max and oldest.used_s >= unused_before_s:
                return
            del self._views[key]
            self.nbytes -= oldest.nbytes

    def _forget(self, view: _View, look: _Look) -> None:
        """Release what a look has read, once its second is over."""
        if view.look is not look:
            return
        if look.variables.is_running:
            asyncio.get_running_loop().call_later(LOOK_S, self._forget, view, look)
        else:
            view.look = None
