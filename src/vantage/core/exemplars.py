"""Exemplars: the trace and span ids that few samples carry, as columns beside those of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vantage.core.arrays import I64, Array
from vantage.core.idhash import Ids, concat_ids, decode_ids, encode_ids, encode_uniform_ids


@dataclass(frozen=True, slots=True, eq=False)
class Exemplars:
    """The sample of row ``position[i]`` carries ``trace_id[i]`` and ``span_id[i]`` (empty where there is none).

    Positions ascend. Ids are ASCII bytes of fixed width, padded with NUL: no object stands for a single one, so that
    hundreds of thousands of them cost neither the garbage collector nor the interpreter lock anything.
    """

    position: I64
    trace_id: Ids
    span_id: Ids

    def __len__(self) -> int:
        return len(self.position)

    @property
    def nbytes(self) -> int:
        return self.position.nbytes + self.trace_id.nbytes + self.span_id.nbytes

    def take(self, rows: Array, size: int) -> Exemplars:
        """Return the exemplars of the given rows, in any order, out of ``size`` rows."""
        if not len(self):
            return NO_EXEMPLARS
        if len(self) == size:  # every row has one
            return Exemplars(np.arange(len(rows)), self.trace_id.take(rows), self.span_id.take(rows))
        exemplar_of = np.full(size, -1, np.int64)
        exemplar_of[self.position] = np.arange(len(self))
        exemplar = exemplar_of[rows]
        position = np.flatnonzero(exemplar >= 0)
        exemplar = exemplar[position]
        return Exemplars(position, self.trace_id.take(exemplar), self.span_id.take(exemplar))

    def slice(self, start: int, end: int) -> Exemplars:
        """Return the exemplars of rows ``start`` to ``end``, with positions counted from ``start``."""
        low, high = np.searchsorted(self.position, [start, end]).tolist()
        if high == low:
            return NO_EXEMPLARS
        return Exemplars(self.position[low:high] - start, self.trace_id[low:high], self.span_id[low:high])

    def rows(self) -> list[tuple[int, str, str]]:
        """Return position, trace id and span id of each exemplar."""
        return list(zip(self.position.tolist(), decode_ids(self.trace_id), decode_ids(self.span_id), strict=True))


_NO_IDS: Final = np.empty(0, "S1")
NO_EXEMPLARS: Final = Exemplars(np.empty(0, np.int64), _NO_IDS, _NO_IDS)


def encode_exemplars(position: Sequence[int] | Array, trace_ids: Sequence[str], span_ids: Sequence[str]) -> Exemplars:
    """Build exemplars from text. Raises UnicodeEncodeError: ids are ASCII."""
    if not len(position):
        return NO_EXEMPLARS
    return Exemplars(_positions(position), encode_ids(trace_ids), encode_ids(span_ids))


def encode_uniform_exemplars(
    position: Sequence[int] | Array, trace_ids: Sequence[str], span_ids: Sequence[str]
) -> Exemplars | None:
    """Build exemplars from trace and span ids, at least one, of which each is valid and as long as the others of its
    kind; None for any others."""
    traces, spans = encode_uniform_ids(trace_ids), encode_uniform_ids(span_ids)
    return None if traces is None or spans is None else Exemplars(_positions(position), traces, spans)


def _positions(position: Sequence[int] | Array) -> I64:
    if isinstance(position, range):  # which numpy would read number by number
        return np.arange(position.start, position.stop, position.step, dtype=np.int64)
    return np.asarray(position, np.int64)


def concat_exemplars(parts: Sequence[tuple[int, Exemplars]]) -> Exemplars:
    """Concatenate exemplars; each part comes with the row at which its samples begin."""
    present = [(start, exemplars) for start, exemplars in parts if len(exemplars)]
    if not present:
        return NO_EXEMPLARS
    return Exemplars(
        np.concatenate([exemplars.position + start for start, exemplars in present]),
        concat_ids([exemplars.trace_id for _, exemplars in present]),
        concat_ids([exemplars.span_id for _, exemplars in present]),
    )
