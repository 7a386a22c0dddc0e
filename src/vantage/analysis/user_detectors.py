"""A detector of one's own: a file of Python with a function over numpy arrays, run in a process of its own.

The file has a function ``detect(time_ms, values) -> scores``, or one of any name with the decorator ``detector``. Both
arrays are of one series: int64 milliseconds, one point a bucket of 5 minutes, and float64 with NaN for gaps. It returns
as many scores; above 1 is an alarm. This module is also the program that runs it (``python -m``): it limits its own
memory and processor time first, so that no fault of the file reaches the server.
"""

from __future__ import annotations

import os
import resource
import runpy
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, Final, TypeVar

import numpy as np

from vantage.core.arrays import F64, I64

Detect = Callable[[I64, F64], Any]
F = TypeVar("F", bound=Detect)
MEMORY_NBYTES_MAX: Final = 1 << 30  # of address space, numpy's libraries included
CPU_S_MAX: Final = 30
_MARK: Final = "__vantage_detector__"
_HEADER: Final = struct.Struct("<qq")  # the number of series, and of points of each


def detector(function: F) -> F:
    """Register the function of a file as its detector."""
    setattr(function, _MARK, True)
    return function


def encode(time_ms: I64, values: F64) -> bytes:
    """Return what the program reads: times by point, values by series and point."""
    return _HEADER.pack(*values.shape) + time_ms.astype("<i8").tobytes() + values.astype("<f8").tobytes()


def decode_scores(body: bytes, shape: tuple[int, int]) -> F64 | None:
    """Return what the program wrote, by series and point; None for anything else."""
    if len(body) != 8 * shape[0] * shape[1]:
        return None
    return np.frombuffer(body, "<f8").reshape(shape).astype(np.float64)


def _decode(stream: BinaryIO) -> tuple[I64, F64]:
    series, points = _HEADER.unpack(stream.read(_HEADER.size))
    time_ms = np.frombuffer(stream.read(8 * points), "<i8").astype(np.int64)
    values = np.frombuffer(stream.read(8 * series * points), "<f8").reshape(series, points).astype(np.float64)
    return time_ms, values


def _function_of(path: str) -> Detect:
    names = runpy.run_path(path)
    marked = [value for value in names.values() if callable(value) and getattr(value, _MARK, False)]
    function = marked[0] if marked else names.get("detect")
    if len(marked) > 1 or not callable(function):
        raise SystemExit("it has no function detect(time_ms, values), or several with the decorator")
    result: Detect = function
    return result


def _main(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_NBYTES_MAX, MEMORY_NBYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    time_ms, values = _decode(sys.stdin.buffer)
    # What the file prints is no part of the answer.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    function = _function_of(path)
    rows = []
    for row in values:
        scores = np.asarray(function(time_ms.copy(), row.copy()), np.float64)
        if scores.shape != row.shape:
            raise SystemExit(f"it returned scores of the shape {scores.shape}, not {row.shape}")
        rows.append(np.nan_to_num(scores, nan=0.0))
    with answer:
        answer.write(np.array(rows, "<f8").tobytes())


if __name__ == "__main__":
    _main(sys.argv[1])
