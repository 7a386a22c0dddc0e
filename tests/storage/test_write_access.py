"""The lock of a data folder that may be read by many and written by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from vantage.core.errors import DataFolderInUse
from vantage.storage.lock import FileLock, FolderLock
from vantage.storage.write_access import WriteAccess, why_read_only


def test_who_reads_keeps_writers_out_until_it_ends(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    first, second = FileLock(tmp_path, "lock"), FileLock(tmp_path, "lock")
    assert first.share(wait=False)
    assert second.share(wait=False), "many may read"
    with pytest.raises(DataFolderInUse):
        FolderLock(tmp_path).take()
    first.release()
    second.release()
    writer = FolderLock(tmp_path)
    writer.take()
    assert not first.share(wait=False)
    writer.release()


def test_the_right_to_write_waits_for_others_that_read(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    reader = FileLock(tmp_path, "lock")
    access = WriteAccess(tmp_path, names=())
    access.take()
    assert access.refusal() == ""
    access.release()
    assert reader.share(wait=False)
    assert "another Vantage process" in access.refusal()
    assert access.latest
    reader.release()
    assert access.refusal() == access.latest == ""
    access.release()


def test_what_is_absent_is_no_reason(tmp_path: Path) -> None:
    assert why_read_only((tmp_path, tmp_path / "absent")) == ""
