"""Messages of commits: a subject of at most 72 characters, checked in the history and by the hook."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.rules.test_tree import committed

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / ".ci" / "commit_subject.py"
HOOKS = ROOT / ".pre-commit-config.yaml"
# Commits written before this moment (2026-11-29 00:00 UTC) are not checked: longer subjects were allowed. A moment and
# not a commit, because a shallow clone need not have that commit.
CHECKED_FROM_S = 1_795_910_400


def load_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("commit_subject", CHECK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


subject_problem = load_check().subject_problem


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def long_subjects(folder: Path, *, since_s: int) -> list[str]:
    """Return hash and problem of each commit written since then, merges left out."""
    commits = git(folder, "log", "--no-merges", "-z", "--format=%h%n%at%n%B").split("\0")
    problems = []
    for commit in filter(None, commits):
        name, written_s, message = commit.split("\n", 2)
        problem = subject_problem(message) if int(written_s) >= since_s else None
        if problem:
            problems.append(f"{name}: {problem}")
    return problems


def run_hook(message: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the commit-msg hook as git would, from a copy: pre-commit refuses a file that is being edited."""
    hooks = shutil.copy(HOOKS, home)
    return subprocess.run(
        [sys.executable, "-m", "pre_commit", "run", "--config", hooks,
         "--hook-stage", "commit-msg", "--commit-msg-filename", message],
        cwd=ROOT,
        env={**os.environ, "PRE_COMMIT_HOME": str(home), "PRE_COMMIT_COLOR": "never"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        "Reader: close the file",
        "x" * 72,
        "ü" * 72,
        "Reader: close the file\n\nIt was open until the process ended, and Windows locked it for that long.\n",
        "# a comment of git's\nReader: close the file\n\n# Please enter the message\n",
    ],
)
def test_a_short_subject_passes(message: str) -> None:
    assert subject_problem(message) is None


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("x" * 73, "the first line has 73 characters"),
        ("", "the first line is empty"),
        ("\nReader: close the file", "the first line is empty"),
        ("Reader: close the file\nIt was open.", "the second line must be empty"),
    ],
)
def test_a_careless_message_is_refused(message: str, problem: str) -> None:
    assert problem in str(subject_problem(message))


def test_the_subjects_of_the_history_are_short() -> None:
    committed(ROOT)  # skips without a checkout
    assert long_subjects(ROOT, since_s=CHECKED_FROM_S) == []


def test_a_long_subject_is_noticed_in_a_shallow_clone_too(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    git(tmp_path, "init", "--quiet", str(origin))
    for second, subject in ((100, "an old one, " * 10), (200, "Short"), (300, "a new one, " * 10)):
        git(origin, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--allow-empty",
            "--date", f"@{second} +0000", "-m", subject)  # fmt: skip
    git(tmp_path, "clone", "--quiet", "--depth", "2", origin.as_uri(), str(clone))
    for folder in (origin, clone):
        problems = long_subjects(folder, since_s=150)
        assert len(problems) == 1
        assert "a new one" in problems[0]


def test_the_hook_refuses_a_long_subject(tmp_path: Path) -> None:
    committed(ROOT)  # skips without a checkout: pre-commit needs one
    message = tmp_path / "COMMIT_EDITMSG"
    message.write_text("x" * 73)
    refused = run_hook(message, tmp_path)
    assert refused.returncode == 1, refused.stderr
    assert "the first line has 73 characters" in refused.stdout
    message.write_text("Reader: close the file")
    passed = run_hook(message, tmp_path)
    assert passed.returncode == 0, passed.stdout


def test_no_hook_comes_from_another_repository() -> None:
    lines = HOOKS.read_text().splitlines()
    assert [line.strip() for line in lines if "repo:" in line] == ["- repo: local"]
