"""One table of examples for numbers as people read them: in Python, in JavaScript, and on the command line."""

import json
import random
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vantage.core import number_format

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "static" / "js" / "number_format.js"
EXAMPLES: dict[str, list[tuple[list[Any], str]]] = json.loads((ROOT / "tests" / "number_format.json").read_text())
CASES = [(name, arguments, text) for name, examples in EXAMPLES.items() for arguments, text in examples]
PYTHON_ONLY = {"ratio", "change"}  # charts and scripts show neither
RANDOM_CASES = 3000
NODE = shutil.which("node")
RUN = """
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
require("vm").runInThisContext(require("fs").readFileSync(process.argv[1], "utf8"));
const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
process.stdout.write(JSON.stringify(cases.map(([name, values]) => numberFormat[camel(name)](...values))));
"""

needs_node = pytest.mark.skipif(NODE is None, reason="needs Node.js: apt-get install nodejs")


def in_python(name: str, arguments: list[Any]) -> str:
    if name == "ago":
        return number_format.ago(arguments[0], now_ms=arguments[1])
    return str(getattr(number_format, name)(*arguments))


def in_javascript(cases: list[tuple[str, list[Any]]]) -> list[str]:
    """Format all cases in one process of Node, with the script that pages load."""
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-e", RUN, str(SCRIPT)], input=json.dumps(cases), capture_output=True, text=True, check=True, timeout=60
    )
    texts: list[str] = json.loads(done.stdout)
    return texts


def any_number(rng: random.Random) -> float:
    """Return a number of any size, one that lies exactly between two texts, or one at the edge of a unit."""
    kind = rng.randrange(4)
    if kind == 0:
        value = struct.unpack("<d", rng.randbytes(8))[0]
        return float(value) if abs(value) < 1e308 else 0.0  # neither infinity nor NaN
    if kind == 1:
        return rng.choice([-1, 1]) * rng.randrange(1, 4000) / 2 ** rng.randrange(6)
    if kind == 2:
        return float(10 ** rng.randrange(-7, 19) * rng.choice([0.9994, 0.9995, 0.9996, 0.99949999, 1, 1.005]))
    return float(rng.uniform(-1, 1) * 10 ** rng.randrange(-9, 16))


@pytest.mark.parametrize(("name", "arguments", "text"), CASES)
def test_python_meets_the_examples(name: str, arguments: list[Any], text: str) -> None:
    assert in_python(name, arguments) == text


@needs_node
def test_javascript_meets_the_examples() -> None:
    cases = [case for case in CASES if case[0] not in PYTHON_ONLY]
    texts = in_javascript([(name, arguments) for name, arguments, _ in cases])
    wrong = [(case, text) for case, text in zip(cases, texts, strict=True) if case[2] != text]
    assert wrong == []


@needs_node
def test_javascript_and_python_agree_on_any_number() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    names = [name for name in EXAMPLES if name not in PYTHON_ONLY | {"ago", "quantity"}]
    cases = [(name, [any_number(rng)]) for name in names for _ in range(RANDOM_CASES // len(names))]
    texts = in_javascript(cases)
    wrong = [(*case, text) for case, text in zip(cases, texts, strict=True) if text != in_python(*case)]
    assert wrong == [], f"seed {seed}"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_finite_number_is_a_dash(value: float) -> None:
    for name in set(EXAMPLES) - {"quantity", "ago"}:
        assert in_python(name, [value]) == number_format.NONE, name
    assert in_python("quantity", [value, "orders"]) == number_format.NONE


@pytest.mark.parametrize("at_ms", [0, 1_795_453_200_000, 2**63 - 1, -(2**63)])
def test_any_time_can_be_written(at_ms: int) -> None:
    assert number_format.rfc3339(at_ms).endswith("Z")
    assert number_format.utc(at_ms).endswith(" UTC")
