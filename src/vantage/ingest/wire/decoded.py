"""The decoded request that every wire format returns, and the checks of samples that they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import msgspec
import numpy as np

from vantage.core.arrays import F64, I64, U32
from vantage.core.batch import Batch
from vantage.core.errors import InputError
from vantage.core.exemplars import NO_EXEMPLARS, Exemplars, encode_exemplars, encode_uniform_exemplars
from vantage.core.sample import FUTURE_MS_MAX, ID_LENGTH_MAX, ID_LETTERS, TIME_MS_MIN, id_problem, time_problem
from vantage.core.series import Series
from vantage.core.span import Span, span_problem
from vantage.ingest.origin_limits import Origin, OriginLimits

ERRORS_LISTED_MAX: Final = 20
FEW: Final = 256
_PATH = re.compile(r"(.*?) - at `(.*)`", re.DOTALL)


T = TypeVar("T")


class Decoder(Protocol):
    """A decoder of msgspec, for either encoding."""

    def decode(self, body: bytes, /) -> Any: ...


NOTHING: Final = Batch()


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a sample or span is rejected."""

    field: str
    reason: str


class DecodedRequest(msgspec.Struct):
    """A decoded request: the batch to publish, and what was rejected."""

    batch: Batch = NOTHING
    rejected: int = 0
    errors: list[tuple[int, Rejection]] = []  # index in the request; the first 20
    fields: dict[str, int] = {}  # rejections by field, for the counters
    dropped: dict[str, int] = {}  # what the agent reports to have dropped, by reason

    @property
    def accepted(self) -> int:
        return self.batch.samples + len(self.batch.spans)

    def reject(self, index: int, rejection: Rejection) -> None:
        self.rejected += 1
        name = rejection.field.split(".")[0].split("[")[0]
        self.fields[name] = self.fields.get(name, 0) + 1
        if len(self.errors) < ERRORS_LISTED_MAX:
            self.errors.append((index, rejection))


def input_error(error: Exception) -> InputError:
    """Return an error with one sentence and the path of the field, from an error of a decoder."""
    if isinstance(error, RecursionError):
        return InputError("the body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return InputError(f"the body is not valid UTF-8 ({error.reason} at byte {error.start} of a string)")
    if match := _PATH.fullmatch(str(error)):
        return InputError(match[1], field=match[2].removeprefix("$").removeprefix("."))
    return InputError(str(error))


class SentIds(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Trace and span ids as they were sent, unchecked: sample ``rows[i]`` (ascending) has ``trace_ids[i]`` and
    ``span_ids[i]`` ('' for none)."""

    rows: Sequence[int]
    trace_ids: Sequence[str]
    span_ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows)

    def filter(self, keep: Sequence[bool]) -> SentIds:
        """Return the ids of the samples in ``keep``, their rows counted among those."""
        new_rows = np.cumsum(np.array(keep, np.bool_)) - 1
        positions = [i for i, row in enumerate(self.rows) if keep[row]]
        return SentIds(
            [int(new_rows[self.rows[i]]) for i in positions],
            [self.trace_ids[i] for i in positions],
            [self.span_ids[i] for i in positions],
        )


NO_IDS: Final = SentIds((), (), ())
DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def distinct_series(resolved: Sequence[Series | Rejection]) -> tuple[list[Series | Rejection], U32]:
    """Return what the samples were resolved to, each once, and which of it each sample has."""
    position = {item: i for i, item in enumerate(dict.fromkeys(resolved))}
    return list(position), np.fromiter(map(position.__getitem__, resolved), np.uint32, len(resolved))


def validate_samples(
    received: DecodedRequest,
    series: Sequence[Series | Rejection],
    index: U32,
    times: Sequence[int],
    values: Sequence[float],
    ids: SentIds,
    *,
    now_ms: int,
    oldest_ms: int,
    batch_id: str,
    new_series_nbytes: int,
) -> None:
    """Put the samples that pass every check into ``received.batch``, and reject the others one by one.

    Sample ``i`` is of ``series[index[i]]``, or rejected when that is a rejection; no series is there twice, and each
    has a sample. ``times[i]`` and ``values[i]`` belong to it, and so do the ids whose row is ``i``.
    """
    time_column = np.fromiter(times, np.int64, len(times))
    value_column = np.fromiter(values, np.float64, len(values))
    exemplars = _encode_valid(ids)
    if (
        exemplars is None
        or Rejection in set(map(type, series))
        or not _check_values(times, time_column, value_column, now_ms, oldest_ms)
    ):
        resolved = [series[i] for i in index.tolist()]
        keep = _reject_invalid(received, resolved, time_column, value_column, ids, now_ms=now_ms, oldest_ms=oldest_ms)
        rows = np.flatnonzero(keep)
        series, index = distinct_series([resolved[row] for row in rows.tolist()])
        time_column, value_column, ids = time_column[rows], value_column[rows], ids.filter(keep)
        exemplars = encode_exemplars(ids.rows, ids.trace_ids, ids.span_ids)
    received.batch = Batch(
        tuple(series),  # type: ignore[arg-type]  # only series remain
        index,
        time_column,
        value_column,
        exemplars,
        received.batch.spans,
        batch_id,
        received.batch.spans_nbytes,
        new_series_nbytes,
    )


def _check_values(times: Sequence[int], time_ms: I64, values: F64, now_ms: int, oldest_ms: int) -> bool:
    """Return whether every sample passes, decided for all at once. ``times`` and ``time_ms`` are the same."""
    if not times:
        return True
    # Of a request's usual size Python's functions are done before numpy's have begun.
    within: Sequence[int] = times if len(times) <= FEW else (int(time_ms.min()), int(time_ms.max()))
    if min(within) < max(oldest_ms, TIME_MS_MIN) or max(within) > now_ms + FUTURE_MS_MAX:
        return False
    return bool(np.isfinite(values).all())


def _encode_valid(sent: SentIds) -> Exemplars | None:
    """Return the ids as exemplars when all of them are valid, None when each must be checked."""
    if not len(sent):
        return NO_EXEMPLARS
    if (exemplars := encode_uniform_exemplars(sent.rows, sent.trace_ids, sent.span_ids)) is not None:
        return exemplars
    text = "".join((*sent.trace_ids, *sent.span_ids))
    if not text.isascii() or text.encode().translate(None, ID_LETTERS):
        return None
    if not all(sent.trace_ids) or max(map(len, (*sent.trace_ids, *sent.span_ids))) > ID_LENGTH_MAX:
        return None
    return encode_exemplars(sent.rows, sent.trace_ids, sent.span_ids)


def _reject_invalid(
    received: DecodedRequest,
    resolved: Sequence[Series | Rejection],
    times: I64,
    values: F64,
    ids: SentIds,
    *,
    now_ms: int,
    oldest_ms: int,
) -> list[bool]:
    """Reject each invalid sample with its first fault, and return which are valid. The slow path: one by one."""
    by_row = dict(zip(ids.rows, zip(ids.trace_ids, ids.span_ids, strict=True), strict=True))
    finite = np.isfinite(values)
    keep = []
    for row, series in enumerate(resolved):
        rejection = series if isinstance(series, Rejection) else None
        if rejection is None and not finite[row]:
            rejection = Rejection("value", "must be a finite number")
        if rejection is None and (reason := time_problem(int(times[row]), now_ms=now_ms, oldest_ms=oldest_ms)):
            rejection = Rejection("timestamp", reason)
        if rejection is None and row in by_row:
            rejection = _exemplar_rejection(*by_row[row])
        if rejection is not None:
            received.reject(row, rejection)
        keep.append(rejection is None)
    return keep


def _exemplar_rejection(trace_id: str, span_id: str) -> Rejection | None:
    if reason := id_problem(trace_id):
        return Rejection("trace_id", reason)
    if span_id and (reason := id_problem(span_id)):
        return Rejection("span_id", reason)
    return None


def add_spans(
    received: DecodedRequest,
    spans: Sequence[Span | Rejection],
    limits: OriginLimits,
    *,
    now_ms: int,
    oldest_ms: int,
    batch_id: str,
) -> None:
    """Put the spans that pass every check into the batch, and reject the others one by one."""
    valid: list[Span] = []
    admitted: dict[Origin, Origin] = {}
    for index, span in enumerate(spans):
        if isinstance(span, Rejection):
            received.reject(index, span)
            continue
        name, reason = span_problem(span, now_ms=now_ms, oldest_ms=oldest_ms)
        if reason:
            received.reject(index, Rejection(name, reason))
            continue
        origin = (span.service_name, span.environment, span.service_version, span.instance)
        if (known := admitted.get(origin)) is None:
            known = admitted[origin] = limits.admit(*origin)
        valid.append(span if known == origin else _with_origin(span, known))
    received.batch = Batch(spans=tuple(valid), batch_id=batch_id)


def _with_origin(span: Span, origin: Origin) -> Span:
    service, environment, version, instance = origin
    return msgspec.structs.replace(
        span, service_name=service, environment=environment, service_version=version, instance=instance
    )


def decode_body(body: bytes, typed: Decoder, loose: Decoder) -> Any:
    """Decode a body with ``typed``, or with ``loose``, which leaves samples and spans undecoded, where a type is wrong.

    Raises InputError when neither can read it.
    """
    try:
        return typed.decode(body)
    except msgspec.ValidationError:
        pass
    except DECODE_ERRORS as error:
        raise input_error(error) from error
    try:
        return loose.decode(body)
    except DECODE_ERRORS as error:
        raise input_error(error) from error


def decode_each(
    raw_items: Sequence[msgspec.Raw], decode: Callable[[msgspec.Raw], T], *, fault: str
) -> list[T | Rejection]:
    """Decode samples or spans one by one, so that one of a wrong type does not cost the others.

    An item that is no object, or lacks a field, is rejected with ``fault`` as the field.
    """
    items: list[T | Rejection] = []
    for raw in raw_items:
        try:
            items.append(decode(raw))
        except DECODE_ERRORS as error:
            problem = input_error(error)
            items.append(Rejection(problem.field or fault, problem.reason))
    return items
