"""64-bit hashes of trace and span ids: the same in every process and on every machine, so they may be stored.

They are for look-ups only: after a match, compare the id itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vantage.core.arrays import U64
from vantage.core.sample import ID_LENGTH_MAX, ID_LETTERS

Ids = NDArray[np.bytes_]

# The finaliser of SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014),
# variant 13 of Stafford's, as in https://prng.di.unimi.it/splitmix64.c. It permutes the 64-bit numbers, and 0 stays 0.
_GAMMA: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB
_ALL: Final = (1 << 64) - 1
_WORD: Final = 8  # bytes


def _mix(number: int) -> int:
    number = (number ^ (number >> 30)) * _FIRST & _ALL
    number = (number ^ (number >> 27)) * _SECOND & _ALL
    return number ^ (number >> 31)


# Each word of an id has an odd multiplier of its own, so that ids with the same words in another order differ. A word
# of zeros adds nothing: the padding of an array, however wide, does not change the hash.
_MULTIPLIERS: Final = tuple(_mix(_GAMMA * (word + 1) & _ALL) | 1 for word in range(ID_LENGTH_MAX // _WORD))
_MULTIPLIER_ARRAY: Final = np.array(_MULTIPLIERS, np.uint64)


def hash_id(text: str) -> int:
    """Return the hash of one id of up to ID_LENGTH_MAX characters, the same as ``hash_ids`` computes.

    Ids are ASCII: any other text gets an arbitrary number. The empty text gets 0.
    """
    total, raw = 0, text.encode("ascii", "replace")[:ID_LENGTH_MAX]
    for start in range(0, len(raw), _WORD):
        word = int.from_bytes(raw[start : start + _WORD], "little")
        total += _mix(word * _MULTIPLIERS[start // _WORD] & _ALL)
    return _mix(total & _ALL)


def hash_ids(ids: Ids) -> U64:
    """Return the hashes of ids in an array of fixed width, up to ID_LENGTH_MAX bytes, padded with NUL."""
    words = max(1, -(-ids.dtype.itemsize // _WORD))
    padded = np.ascontiguousarray(ids, f"S{words * _WORD}").view("<u8").reshape(len(ids), words)
    # A row for each word, so that every step is one pass over memory.
    mixed = _mix_in_place(np.multiply(padded.T, _MULTIPLIER_ARRAY[:words, None], order="C"))
    return _mix_in_place(np.add.reduce(mixed, axis=0))


def concat_ids(parts: Sequence[Ids]) -> Ids:
    """Concatenate ids, as wide as the widest.

    numpy's own function copies them one by one and holds the interpreter lock meanwhile.
    """
    column = IdColumn()
    column.write(0, parts)
    return column.read(0, sum(map(len, parts)))


class IdColumn:
    """Ids in an array with room at its end, as wide as the widest so far. Ids that were written never change: what
    ``read`` returned stays as it is while more are written behind it."""

    def __init__(self, room: int = 0) -> None:
        """``room``: for how many there is room once the first were written."""
        self._ids: Ids = np.empty(0, "S1")
        self._room = room

    def write(self, start: int, parts: Sequence[Ids]) -> None:
        """Write ids one after the other from the row ``start`` on; what was there and behind it is gone."""
        end = start + sum(map(len, parts))
        width = max([self._ids.dtype.itemsize, *(part.dtype.itemsize for part in parts if len(part))])
        if end > len(self._ids) or width > self._ids.dtype.itemsize:
            larger = np.empty(max(end, self._room, len(self._ids)), f"S{width}")
            larger[:start] = self._ids[:start]
            self._ids = larger
        at = start
        for part in parts:
            if len(part):
                self._ids[at : at + len(part)] = part
                at += len(part)

    def read(self, start: int, end: int) -> Ids:
        """Return the ids of rows ``start`` to ``end``."""
        return self._ids[start:end]


def hash_pairs(first: Ids, second: Ids) -> U64:
    """Return one hash per pair of ids, such as a trace's and a span's; their order counts."""
    return _mix_in_place(hash_ids(first) * _MULTIPLIER_ARRAY[0] + hash_ids(second))


def _mix_in_place(numbers: U64) -> U64:
    shifted = numbers >> np.uint64(30)
    numbers ^= shifted
    numbers *= np.uint64(_FIRST)
    np.right_shift(numbers, np.uint64(27), out=shifted)
    numbers ^= shifted
    numbers *= np.uint64(_SECOND)
    np.right_shift(numbers, np.uint64(31), out=shifted)
    numbers ^= shifted
    return numbers


ENCODE_AT_ONCE: Final = 4096  # ids that are turned into bytes in one go, which holds the interpreter lock


def encode_ids(texts: Sequence[str]) -> Ids:
    """Return ids as an array of fixed width, that of the longest. Raises UnicodeEncodeError: ids are ASCII."""
    if len(texts) > ENCODE_AT_ONCE:
        starts = range(0, len(texts), ENCODE_AT_ONCE)
        return concat_ids([encode_ids(texts[start : start + ENCODE_AT_ONCE]) for start in starts])
    lengths = set(map(len, texts)) or {1}
    width = max(lengths) or 1
    if min(lengths) < width:
        texts = [text.ljust(width, "\0") for text in texts]
    return np.frombuffer("".join(texts).encode("ascii"), f"S{width}")


def encode_uniform_ids(texts: Sequence[str]) -> Ids | None:
    """Return ids that are all valid and of one length, the form of nearly every request; None for any others.

    The whole column is checked at once, without a step for each id: they are joined by NUL, and then no other byte may
    be one that ids have not, and every NUL must be where one id of that length ends.
    """
    width, gaps = len(texts[0]), len(texts) - 1
    if not 0 < width <= ID_LENGTH_MAX:
        return None
    raw, step = "\0".join(texts).encode("ascii", "replace"), width + 1
    if len(raw) != gaps * step + width or raw.translate(None, ID_LETTERS) != b"\0" * gaps:
        return None
    if raw[width::step].strip(b"\0"):
        return None
    return np.ndarray(len(texts), f"S{width}", raw, 0, step)


def decode_ids(ids: Ids) -> list[str]:
    """Return ids as text."""
    texts: list[str] = ids.astype(np.str_).tolist()
    return texts
