"""What tries to do more than ask is refused; what only looks like it is answered."""

from __future__ import annotations

import pytest

from tests.support.samples import NOW_MS, MovedClock, a_batch, a_series
from tests.vql.attacks import ATTACKS, HARMLESS
from vantage.core.errors import QueryError
from vantage.storage.memory import MemoryStore
from vantage.vql.text.compile import compile_condition, compile_query


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_with_a_reason(attack: str) -> None:
    with pytest.raises(QueryError) as refused:
        compile_query(ATTACKS[attack], now_ms=NOW_MS)
    assert 10 < len(str(refused.value)) < 500


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_no_condition_either(attack: str) -> None:
    text = ATTACKS[attack]
    for condition in (text, f"value > 1 {text}", f"value > 1 OR {text}", f"value > 1) {text}"):
        with pytest.raises(QueryError):
            compile_condition(condition, now_ms=NOW_MS)


@pytest.mark.parametrize("text", HARMLESS)
async def test_what_only_looks_like_an_attack_is_answered(text: str) -> None:
    store = MemoryStore(clock=MovedClock())
    await store.write(a_batch(1.0, 2.0, series=a_series(unit="a" * 60, tags={"'] OR 1=1 --": "x"})))
    result = await store.select(compile_query(HARMLESS[text], now_ms=NOW_MS).query, deadline_s=5)
    assert len(result) <= 2
