"""``/traces/{trace_id}``: a trace as a waterfall or a flame graph. What is open and selected is in the URL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from vantage.core.errors import NotFoundError
from vantage.core.sample import ID_LENGTH_MAX, id_problem
from vantage.query.context import QueryContext
from vantage.query.flame import flame
from vantage.query.trace_index import TraceIndex, read_index
from vantage.query.trace_window import Folding, neighbours, search, window
from vantage.web.pages.waterfall import waterfall
from vantage.web.render import query_string, render

SAMPLES_MAX: Final = 200
SAMPLES_OF_SPAN_MAX: Final = 20
SHARES_MAX: Final = 5
ALL_SHARES_MAX: Final = 100
ERRORS_MAX: Final = 3
ANCESTORS_MAX: Final = 6
FOLDS_MAX: Final = 40
TEXT_LENGTH_MAX: Final = 200
_KEY_LENGTH_MAX: Final = ID_LENGTH_MAX + 8  # an id and the number of a repeat
_OPEN: Final = "open."
_CLOSE: Final = "close."


@dataclass(frozen=True, slots=True)
class View:
    """The parameters of the URL. ``fold`` are keys of spans after ``open.`` or ``close.``; the last one counts."""

    view: str
    clocks: str
    q: str
    only: str
    at: str
    span: str
    all: str
    fold: tuple[str, ...]
    page: str
    shares: str

    def state(self, **changed: object) -> dict[str, object]:
        """Return the parameters with changes, without empty ones. What is selected, listed or drawn otherwise begins on
        its own page."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "page": "", **changed}

    def url(self, **changed: object) -> str:
        return query_string(self.state(**changed))

    def folding(self) -> Folding:
        return Folding(
            opened=frozenset(text.removeprefix(_OPEN) for text in self.fold if text.startswith(_OPEN)),
            closed=frozenset(text.removeprefix(_CLOSE) for text in self.fold if text.startswith(_CLOSE)),
            all_open=bool(self.all),
            root=self.at,
            selected=self.span,
            page=int(self.page) if self.page else None,
        )


@get("/traces/{trace_id:str}", include_in_schema=False)
async def trace(
    request: Request[Any, Any, Any], context: NamedDependency[QueryContext], trace_id: FromPath[str]
) -> Response[str]:
    if id_problem(trace_id):
        raise NotFoundError(f"there is no trace {trace_id[:64]!r}", field="trace_id")
    view = _view(request)
    is_shifted = view.clocks == "shifted"
    index, skews = await read_index(context, trace_id, is_shifted=is_shifted)
    variables = await asyncio.to_thread(_variables, index, skews, view)
    return await render(request, "pages/trace.html", section="traces", **variables)


def _view(request: Request[Any, Any, Any]) -> View:
    params = request.query_params

    def last(name: str, *choices: str, length_max: int = _KEY_LENGTH_MAX) -> str:
        text = str((params.getall(name, []) or [""])[-1]).strip()[:length_max]
        return text if not choices or text in choices else ""

    folds: dict[str, str] = {}
    for text in params.getall("fold", []):
        what, _, key = text[: len(_CLOSE) + _KEY_LENGTH_MAX].partition(".")
        if what in ("open", "close") and key:
            folds.pop(key, None)
            folds[key] = f"{what}.{key}"
    page = last("page", length_max=6)
    return View(
        view=last("view", "flame"),
        clocks=last("clocks", "shifted"),
        q=last("q", length_max=TEXT_LENGTH_MAX),
        only=last("only", "errors"),
        at=last("at"),
        span=last("span"),
        all=last("all", "1"),
        fold=tuple(folds.values())[-FOLDS_MAX:],
        page=page if page.isascii() and page.isdigit() else "",
        shares=last("shares", "all"),
    )


def _variables(index: TraceIndex, skews: Mapping[int, int], view: View) -> dict[str, Any]:
    tree = index.tree
    tops = [node.span for node in sorted(tree.roots, key=lambda node: node.orphan)]  # roots before orphans
    is_flame = view.view == "flame"
    matches = search(index, view.q, failed=view.only == "errors") if view.q or view.only else None
    drawn_window = window(index, view.folding(), matches)
    failed = index.failed()
    selected = index.positions.get(view.span, -1)
    before, after = neighbours(failed, selected)
    on_path = [share for share in index.shares if share.path_ns][:SHARES_MAX]
    shares = index.shares[:ALL_SHARES_MAX] if view.shares else on_path
    root = index.positions.get(view.at, -1)
    above = list(index.ancestors(root))[::-1] if root >= 0 else []
    return {
        "tree": tree,
        "index": index,
        "view": view,
        "root": tops[0] if tops else None,
        "skewed": bool(skews),
        "is_shifted": view.clocks == "shifted",
        "is_flame": is_flame,
        "flame": flame(index, view.at) if is_flame else None,
        "drawn": waterfall(index, drawn_window, {} if view.clocks else skews, root=view.at),
        "window": drawn_window,
        "matches": None if matches is None else len(matches),
        "selected": view.span if selected >= 0 else "",
        "selected_samples": _samples_of(index, selected),
        "unknown_span": bool(view.span) and selected < 0,
        "failed": [(index.keys[position], index.nodes[position].span) for position in failed[:ERRORS_MAX]],
        "error_number": failed.index(selected) + 1 if selected in failed else 0,
        "error_before": "" if before is None else index.keys[before],
        "error_after": "" if after is None else index.keys[after],
        "shares": shares,
        "shares_left_out": len(index.shares) - len(shares),
        "ancestors": [(index.keys[position], index.nodes[position].span) for position in above[-ANCESTORS_MAX:]],
        "ancestors_left_out": max(0, len(above) - ANCESTORS_MAX),
        "subtree": (index.nodes[root].span, index.size[root]) if root >= 0 else None,
        "folds_are_cut": len(view.fold) == FOLDS_MAX,
        "folds_max": FOLDS_MAX,
        "text_length_max": TEXT_LENGTH_MAX,
        "samples": tree.samples[:SAMPLES_MAX],
        "samples_omitted": max(0, len(tree.samples) - SAMPLES_MAX),
    }


def _samples_of(index: TraceIndex, position: int) -> list[Any]:
    if position < 0:
        return []
    span_id = index.nodes[position].span.span_id
    return [sample for sample in index.tree.samples if sample.span_id == span_id][:SAMPLES_OF_SPAN_MAX]


handlers = [trace]
