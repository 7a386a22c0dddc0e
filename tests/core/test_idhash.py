"""Hashes of ids: the same in every process, whatever the width of the array."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vantage.core.idhash import hash_id, hash_ids, hash_pairs

ids = st.text("abcdefABCDEF0123456789_.:-", max_size=64)


@given(st.lists(ids, max_size=20), st.integers(0, 64))
def test_one_id_and_an_array_of_any_width_give_the_same_number(texts: list[str], wider: int) -> None:
    width = max(1, wider, *(len(text) for text in texts)) if texts else max(1, wider)
    array = np.array([text.encode() for text in texts], f"S{width}")
    assert hash_ids(array).tolist() == [hash_id(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("abc-123", 0x66D8_C5DF_CB1A_71D6),
        ("4bf92f3577b34da6a3ce929d0e0e4736", 0x0BB5_04F5_98A8_B7FE),
    ],
)
def test_the_numbers_are_those_of_every_version(text: str, number: int) -> None:
    assert hash_id(text) == number


def test_ids_that_differ_hash_differently() -> None:
    chance = random.Random(5)
    texts = [f"{chance.getrandbits(128):032x}" for _ in range(20_000)]
    texts += [f"span-{i}" for i in range(20_000)]
    assert len(set(hash_ids(np.array(texts, "S32")).tolist())) == len(texts)


def test_the_order_of_words_counts() -> None:
    assert hash_id("aaaaaaaabbbbbbbb") != hash_id("bbbbbbbbaaaaaaaa")


def test_every_bit_of_the_hash_is_used() -> None:
    hashes = hash_ids(np.array([f"{i:032x}" for i in range(4096)], "S32"))
    ones = [int(((hashes >> np.uint64(bit)) & np.uint64(1)).sum()) for bit in range(64)]
    assert all(1800 < item < 2300 for item in ones)


def test_an_array_that_is_no_block_of_memory_is_hashed_alike() -> None:
    complete = np.array([b"a", b"b", b"c", b"d"], "S16")
    assert hash_ids(complete[::2]).tolist() == [hash_id("a"), hash_id("c")]


def test_a_text_that_is_no_id_has_a_hash_too() -> None:
    assert hash_id("ä" * 100) == hash_id("?" * 64)


def test_the_order_of_a_pair_counts() -> None:
    single, two = np.array([b"a", b"b"]), np.array([b"b", b"a"])
    first, second = hash_pairs(single, two).tolist()
    assert first != second
