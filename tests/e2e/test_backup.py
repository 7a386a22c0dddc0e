"""``vantage backup``, ``restore`` and ``doctor`` as people meet them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.load import NO_RATES
from tests.support.random_batches import RandomBatches
from tests.support.server import Server, serving, vantage
from vantage.core.clock import SystemClock
from vantage.storage.embedded.store import EmbeddedStore
from vantage.storage.lock import MAINTENANCE, FileLock
from vantage.telemetry import Telemetry

BATCH = {"service_name": "api", "metrics": [{"metric_name": "m", "value": 1}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with segments and something not sealed."""

    async def fill() -> None:
        chance = RandomBatches(17)
        async with EmbeddedStore(tmp_path / "data", clock=SystemClock(), telemetry=Telemetry()) as store:
            for n in range(12):
                await store.write(chance.batch())
                if n % 4 == 3:
                    await store.seal()
            await store.write(chance.batch())

    asyncio.run(fill())
    return tmp_path / "data"


def refused(*arguments: str) -> str:
    done = vantage(*arguments)
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("vantage: ")
    return lines[0]


def sent(server: Server, count: int) -> None:
    for _ in range(count):
        assert server.send(BATCH).status == 202


def test_a_backup_of_a_running_server_is_served_elsewhere_with_its_keys(tmp_path: Path) -> None:
    data, backup, new = tmp_path / "data", tmp_path / "backup", tmp_path / "new"
    key = vantage("keys", "create", "laptop", "--data", str(data)).stdout.strip()
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    with serving(data, environ=NO_RATES) as server:
        body = json.dumps(BATCH).encode()
        for _ in range(5):
            assert server.request("POST", "/v1/metrics", body, headers).status == 202
        done = vantage("backup", str(backup), "--data", str(data))
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(
            rf"{re.escape(str(backup))}: [\d.]+ [kM]?B in 2 files, 0 of them segments, in [\d.]+ m?s; "
            r"segments stood still for [\d.]+ m?s\n",
            done.stdout,
        )
        assert server.request("POST", "/v1/metrics", body, headers).status == 202, "the server goes on"
    done = vantage("restore", str(backup), "--data", str(new))
    assert (done.returncode, done.stderr) == (0, "")
    assert "start it with vantage serve" in done.stdout
    with serving(new, environ=NO_RATES) as server:
        assert server.get("/api/services").status == 401
        (one,) = [
            one
            for one in server.request("GET", "/api/services", headers=headers).json()["services"]
            if one["name"] == "api"
        ]
        assert one["samples"] == 5


def test_a_restore_into_a_folder_in_use_or_with_data_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    assert vantage("backup", str(tmp_path / "backup"), "--data", str(folder)).returncode == 0
    assert "holds data already" in refused("restore", str(tmp_path / "backup"), "--data", str(folder))
    with serving(tmp_path / "served") as server:
        line = refused("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "served"))
        assert "in use by another Vantage process" in line
        sent(server, 1)


def test_metadata_that_is_kept_elsewhere_is_not_copied_and_that_is_said(folder: Path, tmp_path: Path) -> None:
    elsewhere = {"VANTAGE_METADATA_URL": f"sqlite:///{tmp_path}/elsewhere.db"}
    done = vantage("backup", str(tmp_path / "backup"), "--data", str(folder), environ=elsewhere)
    assert done.returncode == 0
    assert "not copied: the metadata database" in done.stderr
    done = vantage("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "new"))
    assert done.returncode == 0
    assert "there are no keys" in done.stderr


def test_a_segment_that_cannot_be_read_makes_the_backup_fail_by_name_and_keep_the_rest(
    folder: Path, tmp_path: Path
) -> None:
    first, *_ = sorted((folder / "segments").glob("*.samples.db"))
    first.write_bytes(b"noise" * 1000)
    done = vantage("backup", str(tmp_path / "backup"), "--data", str(folder))
    assert done.returncode == 1
    assert f"lacks what cannot be read: {first.name}" in done.stderr
    assert vantage("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "new")).returncode == 0


def test_whoever_waits_for_the_lock_is_told_why(folder: Path, tmp_path: Path) -> None:
    lock = FileLock(folder, MAINTENANCE)
    assert lock.take(wait=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VANTAGE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "vantage", "backup", str(tmp_path / "backup"), "--data", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ,
    )  # fmt: skip
    assert process.stderr is not None
    assert "waiting for it" in process.stderr.readline()
    lock.release()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "files" in out


# ---- doctor


def test_doctor_looks_at_segments_and_at_the_space_without_changing_anything(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "segments").iterdir()}
    done = vantage("doctor", "--data", str(folder))
    assert done.returncode == 0, done.stdout
    assert re.search(r"^ok    segments: \d+ files, [1-9]\d* samples, [1-9]\d* spans, [\d.]+ kB$", done.stdout, re.M)
    assert re.search(r"^      on the disk: journal .*, samples .*, rollups .*$", done.stdout, re.M)
    assert re.search(r"^      svc\d +m\d +(samples|rollups) +[\d.]+ k?B +(\d+ +)?\d+$", done.stdout, re.M)
    assert {path: path.stat().st_mtime_ns for path in (folder / "segments").iterdir()} == before


def test_doctor_beside_a_server_tells_what_grows(tmp_path: Path, folder: Path) -> None:
    with serving(folder, environ=NO_RATES) as server:
        sent(server, 3)
        there = {"VANTAGE_PORT": str(server.address[1])}
        alone = vantage("doctor", "--data", str(folder), environ=there)
        assert "grew most" not in alone.stdout, "the folder was named"
        asked = vantage("doctor", environ={**there, "VANTAGE_DATA": str(folder)})
        assert asked.returncode == 0, asked.stdout
        assert re.search(r"^      grew most in the last 24 hours:\n.*\n(.*\n)*      api +m +3$", asked.stdout, re.M)


def test_doctor_names_damaged_and_put_aside_files(folder: Path) -> None:
    first, second, *_ = sorted((folder / "segments").glob("*.samples.db"))
    first.write_bytes(b"noise" * 1000)
    with serving(folder):
        pass
    second.write_bytes(second.read_bytes()[:5000])
    done = vantage("doctor", "--data", str(folder))
    assert done.returncode == 1
    assert f"FAIL  segments: {second.name}: it is cut off" in done.stdout
    assert re.search(rf"^FAIL  segments: \S+-{re.escape(first.name)} was put aside", done.stdout, re.M)
    assert "Traceback" not in done.stderr


def test_doctor_deep_reads_every_row_and_names_those_that_are_damaged(folder: Path) -> None:
    sound = vantage("doctor", "--deep", "--data", str(folder))
    assert sound.returncode == 0, sound.stdout
    assert "ok    rows: every row of " in sound.stdout
    damaged = 0
    for path in (folder / "segments").glob("*.samples.db"):
        with closing(sqlite3.connect(path)) as db, db:
            damaged += db.execute("UPDATE chunk SET vals = zeroblob(length(vals))").rowcount
    assert vantage("doctor", "--data", str(folder)).returncode == 0, "which only --deep can see"
    done = vantage("doctor", "--deep", "--data", str(folder))
    assert done.returncode == 1
    named = re.findall(r"^FAIL  rows: \S+\.samples\.db: chunk \d+: its checksum does not fit$", done.stdout, re.M)
    assert len(named) == min(20, damaged)
    assert (f"FAIL  rows: {damaged - 20} more" in done.stdout) == (damaged > 20)


def test_doctor_deep_finds_nothing_wrong_beside_a_server_that_seals_and_merges(tmp_path: Path) -> None:
    program = (
        "from vantage.storage.embedded.maintain import merge\n"
        "from vantage.storage.embedded.store import EmbeddedStore\n"
        "EmbeddedStore.__init__.__kwdefaults__['generation_samples_max'] = 50\n"
        "merge.PARTS_MIN = merge.PARTS_MIN_BUSY = 2\n"
        "import sys; from vantage.cli import main; sys.exit(main())"
    )
    server = Server(tmp_path / "data", environ=NO_RATES, program=("-c", program)).wait_ready()
    try:
        end_s = time.monotonic() + 3
        looks = 0
        while time.monotonic() < end_s or looks < 2:
            metrics = [{"metric_name": f"m{n}", "value": n, "trace_id": f"t{n}"} for n in range(60)]
            for _ in range(20):
                assert server.send({"service_name": "api", "metrics": metrics}).status == 202
            done = vantage("doctor", "--deep", "--data", str(tmp_path / "data"))
            assert done.returncode == 0, done.stdout
            looks += 1
    finally:
        server.stop()
