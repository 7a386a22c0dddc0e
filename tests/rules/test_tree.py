"""What may be committed: our own sources, in files of a readable size; locks that name no host."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_SUFFIXES = {".py", ".js", ".css", ".html", ".sql", ".sh"}
BROWSER_SUFFIXES = {".js", ".css", ".html", ".svg"}
LINES_MAX = 500
TEST_LINES_MAX = 900  # a table of cases may be long
LINE_LENGTH_MAX = 1000
SIZE_BYTES_MAX = 512 * 1024
FOREIGN_PATH = re.compile(
    r"(^|/)(vendor|node_modules|third_party|site-packages)/|\.min\.(js|css)$|\.map$|\.(whl|jar|so|tgz|tar\.gz|zip|exe)$"
)
FOREIGN_TEXT = re.compile(r"@license|@preserve|^\s*/\*!|copyright \(c\)|sourceMappingURL", re.IGNORECASE | re.MULTILINE)
LOCKS = ["server", "dev", "bench", "build"]


def committed(root: Path) -> list[Path]:
    """Tracked files, and those that `git add` would take."""
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("not a git checkout: clone the repository to run this test")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted({root / name for name in listed.stdout.split("\0") if name and (root / name).is_file()})


def foreign(path: Path, root: Path) -> str | None:
    """Why this file looks like somebody else's, or made by a tool; None when it looks like ours."""
    name = path.relative_to(root).as_posix()
    if FOREIGN_PATH.search(name):
        return "is third-party or built: have the build fetch it"
    if path.stat().st_size > SIZE_BYTES_MAX:
        return f"is larger than {SIZE_BYTES_MAX} bytes"
    if path.suffix in BROWSER_SUFFIXES:
        text = path.read_text(encoding="utf-8")
        if max(map(len, text.splitlines()), default=0) > LINE_LENGTH_MAX:
            return "is minified"
        if FOREIGN_TEXT.search(text):
            return "carries somebody's licence header"
    return None


def shell_complaint(path: Path) -> str | None:
    if path.suffix != ".sh" and not re.match(rb"#!.*\b(ba|da)?sh\b", path.read_bytes()[:100]):
        return None
    if not os.access(path, os.X_OK):
        return "is not executable: chmod +x, and git add --chmod=+x"
    if "set -eu" not in path.read_text(encoding="utf-8"):
        return "goes on after a failure: begin with `set -eu` (bash: `set -euo pipefail`)"
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    return checked.stderr or None


def too_long(path: Path) -> str | None:
    if path.suffix not in SOURCE_SUFFIXES:
        return None
    lines = len(path.read_text(encoding="utf-8").splitlines())
    limit = TEST_LINES_MAX if path.name.startswith("test_") else LINES_MAX
    return f"has {lines} lines: split it by what the parts know" if lines > limit else None


def test_every_committed_file_is_ours() -> None:
    assert not [f"{path} {why}" for path in committed(ROOT) if (why := foreign(path, ROOT))]


def test_no_source_file_is_over_500_lines() -> None:
    assert not [f"{path} {why}" for path in committed(ROOT) if (why := too_long(path))]


def test_shell_scripts_run_and_stop_at_the_first_failure() -> None:
    files = committed(ROOT)
    assert ROOT / ".ci" / "run" in files
    assert not [f"{path} {why}" for path in files if (why := shell_complaint(path))]


def test_what_the_build_fetches_is_ignored_by_git() -> None:
    requested = ["static/vendor/htmx.min.js", "node_modules/x", ".venv/x", "data/x", ".env", "dist/x.whl"]
    answer = subprocess.run(["git", "check-ignore", *requested], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == requested


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("static/vendor/a.js", "let a = 1;\n"),
        ("static/js/chart.min.js", "let a = 1;\n"),
        ("static/js/chart.js", "let a=1;" * 500),
        ("static/js/chart.js", "/*! chart.js, MIT */\nlet a = 1;\n"),
        ("static/css/grid.css", "/* Copyright (c) Somebody */\n"),
        ("deploy/data.bin", "x" * (SIZE_BYTES_MAX + 1)),
    ],
)
def test_a_foreign_file_is_noticed(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert foreign(path, tmp_path)


def test_a_long_source_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("a = 1\n" * (LINES_MAX + 1))
    assert too_long(path)


@pytest.mark.parametrize(
    ("content", "mode"),
    [("#!/bin/sh\nset -eu\n", 0o644), ("#!/usr/bin/env bash\necho hi\n", 0o755), ("#!/bin/sh\nset -eu\nif\n", 0o755)],
)
def test_a_careless_shell_script_is_noticed(tmp_path: Path, content: str, mode: int) -> None:
    path = tmp_path / "run"
    path.write_text(content)
    path.chmod(mode)
    assert shell_complaint(path)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_every_package_by_hash_and_names_no_host(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    packages = body.replace("\\\n", " ").splitlines()
    assert packages
    assert not [line for line in packages if "==" not in line or "--hash=sha256:" not in line]
    assert not re.findall(r"://|--(?:extra-)?index|--find-links|--trusted-host| @ ", body)


def test_the_front_end_lock_names_no_host() -> None:
    text = (ROOT / "package-lock.json").read_text()
    assert '"integrity"' in text
    without_funding = re.sub(r'"funding": \{[^}]*\}', "", text)
    assert not re.findall(r'"resolved"|https?://', without_funding)


def test_every_declared_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {"server": project["project"]["optional-dependencies"]["server"], **project["dependency-groups"]}
    for name in LOCKS:
        locked = {line.partition("==")[0] for line in lock_lines(name)}
        declared = {re.split(r"[\[<>=;~! ]", group)[0].lower() for group in groups[name] if isinstance(group, str)}
        assert declared
        assert declared <= locked, f"run `make lock`: requirements/{name}.txt lacks {sorted(declared - locked)}"


def test_environments_that_share_a_venv_agree_on_every_version() -> None:
    versions: dict[str, set[str]] = {}
    for name in LOCKS:
        pins: dict[str, list[str]] = {}
        for line in lock_lines(name):
            package, _, rest = line.partition("==")
            pins.setdefault(package, []).append(rest.split()[0])
        for package, result in pins.items():
            versions.setdefault(package, set()).add(" ".join(sorted(result)))
    assert not {package: result for package, result in versions.items() if len(result) > 1}


def lock_lines(name: str) -> list[str]:
    return [line for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines() if "==" in line]


def test_the_base_install_has_no_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == []
    assert all("python_version >= '3.11'" in item for item in project["optional-dependencies"]["server"])
