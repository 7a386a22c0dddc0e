"""``vantage-agent run -- CMD …``: run a Python program with the agent, without changing it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath

SITE = Path(__file__).resolve().parent / "_site"
# Options of Python that the start of the agent does not survive: it needs PYTHONPATH and sitecustomize.
AGAINST = {"E": "ignores PYTHONPATH", "I": "ignores PYTHONPATH", "S": "imports no sitecustomize"}
WITH_ARGUMENT = "cmWX"
SHEBANG_NBYTES = 256
SETTINGS = {
    "service_name": "the name of the service (default: the program's name)",
    "collector_url": "where Vantage listens (default: http://127.0.0.1:8000)",
    "environment": "such as production or staging",
    "service_version": "the version that is running",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Replace this process by the program. Return an exit code only if the program cannot be started."""
    parser = argparse.ArgumentParser(
        prog="vantage-agent",
        description="Send metrics and traces of a Python program to Vantage, without changing the program.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run a program with the agent: vantage-agent run -- python app.py",
        usage="vantage-agent run [options] -- CMD [ARGS …]",
        epilog="Each option sets an environment variable: VANTAGE_AGENT_SERVICE_NAME and so on. "
        "The API key is read from VANTAGE_AGENT_API_KEY, since everyone on the machine can see command lines.",
    )
    for name, meaning in SETTINGS.items():
        run.add_argument(f"--{name.replace('_', '-')}", metavar=name.rpartition("_")[2].upper(), help=meaning)
    run.add_argument("program", nargs=argparse.REMAINDER, metavar="-- CMD …", help="the program and its arguments")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    if options.command is None:
        parser.print_help()
        return 0
    program = options.program[1:] if options.program[:1] == ["--"] else options.program
    if not program:
        return _fail("no program given: use vantage-agent run -- python app.py", 2)
    environ = dict(os.environ)
    for name in SETTINGS:
        if getattr(options, name):
            environ[f"VANTAGE_AGENT_{name.upper()}"] = getattr(options, name)
    environ.setdefault("VANTAGE_AGENT_SERVICE_NAME", program_name(program))
    flag = flag_against(program)
    if flag:
        _warn(f"the program runs without the agent: Python's option -{flag} {AGAINST[flag]}")
    existing = environ.get("PYTHONPATH")
    environ["PYTHONPATH"] = os.pathsep.join([str(SITE), *([existing] if existing else [])])
    try:
        os.execvpe(program[0], program, environ)  # noqa: S606  # running a program is its purpose
    except FileNotFoundError:
        return _fail(f"{program[0]}: not found", 127)
    except OSError as error:
        return _fail(f"{program[0]}: {error.strerror or error}", 126)


def program_name(program: Sequence[str]) -> str:
    """Return the default name of the service: the script or module that Python runs, or the command itself."""
    name = PurePath(program[0]).stem
    if not _is_python(program[0]):
        return name
    for position, argument in enumerate(program[1:], 1):
        if argument == "-c":
            break
        if argument == "-m" and position + 1 < len(program):
            return program[position + 1].partition(".")[0]
        if not argument.startswith("-"):
            return PurePath(argument).stem
    return "python"


def flag_against(program: Sequence[str]) -> str:
    """Return the option of Python by which the program cannot begin with the agent: of the command itself, or of the
    first line of a script. '' if there is none."""
    if _is_python(program[0]):
        return _flag_in(program[1:])
    path = shutil.which(program[0])
    try:
        with open(path or program[0], "rb") as file:  # noqa: PTH123
            first = file.read(SHEBANG_NBYTES).partition(b"\n")[0].decode("utf-8", "replace")
    except OSError:
        return ""
    words = first[2:].split() if first.startswith("#!") else []
    for position, word in enumerate(words):
        if _is_python(word):
            return _flag_in(words[position + 1 :])
    return ""


def _flag_in(arguments: Sequence[str]) -> str:
    """Return the first such option among those that precede the script."""
    skipped = False
    for argument in arguments:
        if skipped:
            skipped = False
            continue
        if not argument.startswith("-") or argument in ("-", "--"):
            break
        if argument.startswith("--"):
            skipped = argument == "--check-hash-based-pycs"
            continue
        for position, letter in enumerate(argument[1:], 1):
            if letter in AGAINST:
                return letter
            if letter in WITH_ARGUMENT:
                if letter in "cm":
                    return ""
                skipped = position == len(argument) - 1
                break
    return ""


def _is_python(command: str) -> bool:
    return PurePath(command).stem.startswith(("python", "pypy"))


def _warn(message: str) -> None:
    print(f"vantage-agent: {message}", file=sys.stderr)  # noqa: T201  # this is a command


def _fail(reason: str, code: int) -> int:
    _warn(reason)
    return code
