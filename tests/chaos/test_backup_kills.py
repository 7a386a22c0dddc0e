"""SIGKILL of a backup, and of a restore, at random moments: what looks whole is whole, what is not is refused, and the
server goes on.

The server seals every 500 samples and merges every three parts, so that a copy meets segments in every state. Backup
and restore rest a little after each file, so that kills fall between any two of them.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.load import NO_RATES, RUN, SAMPLES_PER_BATCH, START_MS, Load, printed_seed, read_back, values_of
from tests.support.server import Server, serving, vantage
from tests.support.wait import wait_until

LONG = bool(os.environ.get("VANTAGE_TEST_LONG"))
KILLS = 30 if LONG else 1
# A backup that is killed this soon is never done: it rests longer than that over its files.
KILLED_WITHIN_S = 1.5 if LONG else 0.1
SERVER_KILLS = 3 if LONG else 1
PAUSE_S = 0.02  # what is sent has to be read back
QUICK_SEALS = """
from vantage.storage.embedded.maintain import merge
from vantage.storage.embedded.store import EmbeddedStore
EmbeddedStore.__init__.__kwdefaults__["generation_samples_max"] = 500
merge.PARTS_MIN = merge.PARTS_MIN_BUSY = 3
"""
RESTS_AFTER_EACH_FILE = """
import time
from vantage.storage.embedded.offline import backup, restore

def rested(step):
    def slow(*args, **named):
        done = step(*args, **named)
        time.sleep(0.05)
        return done
    return slow

backup.sync_file, backup.write_manifest = rested(backup.sync_file), rested(backup.write_manifest)
restore._copy, restore._begin, restore._end = rested(restore._copy), rested(restore._begin), rested(restore._end)
"""


def started(*arguments: str) -> subprocess.Popen[str]:
    """A command that takes its time."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VANTAGE_")}
    return subprocess.Popen(
        [sys.executable, "-c", RESTS_AFTER_EACH_FILE + RUN, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ,
    )  # fmt: skip


def killed_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """Whether it was killed; False when it had ended well before."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    assert process.returncode == 0
    return False


def assert_each_is_kept_once(server: Server, answered: set[int], batches: int) -> None:
    result = read_back(server, START_MS, batches)
    for item in answered:
        stored = [result[value] for value in values_of(item)]
        assert stored == [1] * SAMPLES_PER_BATCH, f"batch {item} was answered before the backup and is kept as {stored}"
    for item in range(batches):
        assert {result[value] for value in values_of(item)} in ({0}, {1}), f"batch {item} is kept in part or twice"


@pytest.fixture
def seed() -> int:
    return printed_seed()


@pytest.mark.timeout(300 + 60 * KILLS)
def test_a_backup_that_is_killed_is_refused_and_one_that_is_whole_holds_what_was_answered_before(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    data, complete, killed = tmp_path / "data", 0, 0
    server = Server(data, environ=NO_RATES, program=("-c", QUICK_SEALS + RUN)).wait_ready()
    recorded: set[int] = set()  # of all turns: a batch that a busy disk kept without an answer may be there or not
    try:
        number = 0
        for turn in range(KILLS + 1):
            target, new = tmp_path / f"backup{turn}", tmp_path / f"new{turn}"
            with Load(server, START_MS, number, pause_s=PAUSE_S) as load:
                wait_until(lambda load=load: len(load.sent.answered) > 200, 60)
                answered = set(load.sent.answered)
                process = started("backup", str(target), "--data", str(data))
                wait_until(lambda target=target: target.exists() and any(target.iterdir()), 60)
                last = turn == KILLS
                killed += killed_after(process, 120 if last else chance.uniform(0, KILLED_WITHIN_S))
                sealed = server.output.count("generation sealed")
                wait_until(lambda sealed=sealed: server.output.count("generation sealed") > sealed, 60)
            number = load.next
            recorded |= load.sent.answered
            if not (target / "backup.json").exists():
                refused = vantage("restore", str(target), "--data", str(new))
                assert refused.returncode == 1
                assert "has no backup.json" in refused.stderr
                assert not new.exists()
                continue
            complete += 1
            restored = vantage("restore", str(target), "--data", str(new))
            assert restored.returncode == 0, restored.stderr
            with serving(new, environ=NO_RATES) as copy:
                assert_each_is_kept_once(copy, answered, number)
                assert "Traceback" not in copy.output
            checked = vantage("doctor", "--deep", "--data", str(new))
            assert checked.returncode == 0, checked.stdout
        assert complete, "no backup came to its end: nothing was tested"
        assert killed, "no backup was killed: nothing was tested"
        assert_each_is_kept_once(server, recorded, number)
        assert "Traceback" not in server.output
    finally:
        if server.process.poll() is None:
            server.kill()


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.db")
    }


@pytest.mark.timeout(300 + 60 * KILLS)
def test_a_restore_that_is_killed_is_not_served_and_ends_well_when_it_is_run_again(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data, backup = tmp_path / "data", tmp_path / "backup"
    server = Server(data, environ=NO_RATES, program=("-c", QUICK_SEALS + RUN)).wait_ready()
    with Load(server, START_MS, 0, pause_s=PAUSE_S) as load:
        wait_until(lambda: server.output.count("generation sealed") > 2, 60)
    assert server.stop() == 0
    assert vantage("backup", str(backup), "--data", str(data)).returncode == 0
    killed = 0
    for turn in range(KILLS):
        new = tmp_path / f"new{turn}"
        process = started("restore", str(backup), "--data", str(new))
        wait_until(lambda: (new / "restoring").exists() or process.poll() is not None, 60)  # noqa: B023
        killed += killed_after(process, chance.uniform(0, KILLED_WITHIN_S / 3))
        if (new / "restoring").exists():
            refused = vantage("serve", "--port", "0", "--data", str(new))
            assert refused.returncode == 1
            assert "an interrupted restore: run vantage restore again" in refused.stderr
            again = vantage("restore", str(backup), "--data", str(new))
            assert again.returncode == 0, again.stderr
        assert hashes(new) == hashes(backup)
        assert not (new / "restoring").exists()
    assert killed, "nothing was killed: nothing was tested"
    with serving(tmp_path / "new0", environ=NO_RATES) as copy:
        assert_each_is_kept_once(copy, load.sent.answered, load.next)


@pytest.mark.timeout(300)
def test_a_backup_of_a_folder_whose_server_was_killed_holds_everything_that_was_answered(
    tmp_path: Path, seed: int
) -> None:
    """In the middle of a seal or a merge, with what was committed last in logs alone."""
    chance = random.Random(seed)
    data, number = tmp_path / "data", 0
    answered: set[int] = set()
    for turn in range(SERVER_KILLS):
        server = Server(data, environ=NO_RATES, program=("-c", QUICK_SEALS + RUN)).wait_ready()
        with Load(server, START_MS, number, pause_s=PAUSE_S) as load:
            wait_until(lambda load=load: len(load.sent.answered) > 200, 60)
            wait_until(lambda server=server: server.output.count("generation sealed") > 2, 60)
            time.sleep(chance.uniform(0, 0.3))
            server.kill()
        number = load.next
        answered |= load.sent.answered
        backup, new = tmp_path / f"backup{turn}", tmp_path / f"new{turn}"
        assert vantage("backup", str(backup), "--data", str(data)).returncode == 0
        assert vantage("restore", str(backup), "--data", str(new)).returncode == 0
        with serving(new, environ=NO_RATES) as copy:
            assert_each_is_kept_once(copy, answered, number)
            assert "Traceback" not in copy.output
