"""The memory that the process may use, and the defaults that follow from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vantage.config import FIELDS, MEMORY_SHARES, load
from vantage.memory_limit import memory_limit_nbytes

MIB = 1 << 20


def control_groups(tmp_path: Path, groups: str, limits: dict[str, str]) -> int:
    file = tmp_path / "cgroup"
    file.write_text(groups)
    for path, text in limits.items():
        (tmp_path / "fs" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / path).write_text(text)
    return memory_limit_nbytes(file, tmp_path / "fs")


def test_without_control_groups_it_is_the_machine_s(tmp_path: Path) -> None:
    assert memory_limit_nbytes(tmp_path / "absent", tmp_path) >= 256 * MIB


@pytest.mark.parametrize(
    ("groups", "limits"),
    [
        ("0::/system.slice/vantage.service", {"system.slice/vantage.service/memory.max": "100000000\n"}),
        ("0::/a/b", {"a/b/memory.max": "max\n", "a/memory.max": "100000000\n"}),
        ("0::/only/on/the/host", {"memory.max": "100000000\n"}),
        ("4:cpu:/x\n3:memory:/x", {"memory/x/memory.limit_in_bytes": "100000000\n"}),
        (
            "3:memory:/x/y",
            {
                "memory/x/y/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/x/memory.limit_in_bytes": "200000000\n",
                "memory/memory.limit_in_bytes": "100000000\n",
            },
        ),
    ],
)
def test_the_least_limit_of_the_control_groups_counts(groups: str, limits: dict[str, str], tmp_path: Path) -> None:
    assert control_groups(tmp_path, groups, limits) == 100_000_000


def test_the_limit_of_the_process_counts() -> None:
    code = "from vantage.memory_limit import memory_limit_nbytes; print(memory_limit_nbytes())"
    command = ["sh", "-c", f"ulimit -S -v {900 * 1024} && exec {sys.executable} -c '{code}'"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) == 900 * MIB


def test_defaults_are_shares_of_a_small_memory_and_say_so(tmp_path: Path) -> None:
    loaded = load(environ={"VANTAGE_HEAD_BYTES_MAX": "50000000"}, dotenv=None, memory_nbytes=600 * MIB)
    assert loaded.settings.head_bytes_max == 50_000_000
    assert loaded.settings.query_memory_max == 60 * MIB
    assert loaded.settings.series_bytes_max == 600 * MIB // 24
    assert loaded.origins["query_memory_max"] == "default for 600 MiB of memory"
    chosen = sum(getattr(loaded.settings, name) for name in MEMORY_SHARES)
    assert chosen < 300 * MIB


def test_with_12_gb_the_defaults_are_the_documented_ones() -> None:
    loaded = load(environ={}, dotenv=None, memory_nbytes=12 << 30)
    assert loaded.origins == {}
    assert all(getattr(loaded.settings, name) == FIELDS[name].default for name in MEMORY_SHARES)
