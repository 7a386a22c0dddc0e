"""The tables of targets: what must be reached, what we aim at, and what this run shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its limits, all in ``unit``. ``at_least``: more is better."""

    row: int
    what: str
    value: float
    must: float
    aim: float | None
    unit: str = "×"
    at_least: bool = False

    def verdict(self, limit: float | None) -> str:
        if limit is None:
            return "–"
        met = self.value >= limit if self.at_least else self.value <= limit
        return f"{'≥' if self.at_least else '≤'} {limit:g} {self.unit}: {'met' if met else '**missed**'}"


def print_targets(targets: Sequence[Target]) -> None:
    print("\n| | target | must | aim | this run |")
    print("| --- | --- | --- | --- | --- |")
    for target in targets:
        verdicts = f"{target.verdict(target.must)} | {target.verdict(target.aim)}"
        print(f"| {target.row} | {target.what} | {verdicts} | {target.value:.2f} {target.unit} |")
