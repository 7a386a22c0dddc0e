"""What commands print: plain text for programs; tables that fit, colour and progress for a terminal."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout

import pytest

from vantage.commands.console import Progress, paint, print_table

HEAD = ["id", "name"]
ROWS = [["1", "日本語"], ["22", "[red]x[/red] \x1b[31m\u202e" + "long " * 60]]
STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def connected(self) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(redirect_stdout(self))
        stack.enter_context(redirect_stderr(self))
        return stack


class Moving:
    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 40 columns; pytest sets the standard streams after the fixtures, so each test connects it."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


@pytest.mark.parametrize("forced", ["FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"])
def test_a_pipe_gets_one_plain_line_per_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, forced: str
) -> None:
    monkeypatch.setenv(forced, "1")
    monkeypatch.setenv("COLUMNS", "40")
    print_table(HEAD, ROWS, indent="  ")
    assert capsys.readouterr().out.split("\n") == [
        "  id  name",
        "  1   日本語",
        "  22  [red]x[/red] \ufffd[31m\ufffd" + ("long " * 60).rstrip(),
        "",
    ]
    assert paint("x", "bold red", sys.stdout) == "x"


def test_a_terminal_gets_a_table_that_fits_and_loses_nothing(terminal: Terminal) -> None:
    with terminal.connected():
        print_table(HEAD, ROWS)
    text = STYLE.sub("", terminal.getvalue())
    assert STYLE.search(terminal.getvalue()), "the head stands out"
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("long") == 60
    assert "\x1b" not in text


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colour_gets_none(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with terminal.connected():
        print_table(HEAD, ROWS)
    assert paint("x", "bold red", terminal) == "x"
    assert "\x1b" not in terminal.getvalue()


def test_paint_uses_the_codes_of_a_terminal(terminal: Terminal) -> None:
    assert paint("x", "bold red", terminal) == "\x1b[1;31mx\x1b[0m"


def test_progress_is_one_line_that_goes_away(terminal: Terminal) -> None:
    with terminal.connected(), Progress(monotonic_s=Moving()) as progress:
        progress.show("too early")
        for done in range(5):
            progress.show(f"{done} of 4 [b]copied[/b] " + "x" * 100, share=done / 4)
        print("a notice beside it", file=sys.stderr)
    text = terminal.getvalue()
    assert "too early" not in text
    assert "[b]copied[/b]" in text
    assert "\n" not in STYLE.sub("", text).partition("a notice beside it\n")[0].replace("\r\n", "")
    assert "a notice beside it" in text
    assert text.endswith(("\x1b[2K", "\x1b[?25h\r\x1b[1A\x1b[2K")), "the line is erased"
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "the cursor is shown again"


def test_progress_elsewhere_is_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(monotonic_s=Moving()) as progress:
        for second in range(25):
            progress.show(f"at {second}", share=second / 25)
    assert capsys.readouterr().err.splitlines() == ["vantage: at 1", "vantage: at 11", "vantage: at 21"]


def test_rich_is_imported_when_something_is_drawn() -> None:
    program = (
        "import sys\n"
        "from vantage.commands import client, console, export_data\n"
        "console.notice('x'); console.paint('x', 'red', sys.stdout)\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'rich'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
