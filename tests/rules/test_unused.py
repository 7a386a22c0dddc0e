"""The list of names that vulture may find unused holds no name that has gone or is used by now."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = ROOT / ".ci" / "vulture_allowed.py"


def test_every_allowed_name_is_there_and_unused() -> None:
    allowed = re.findall(r"^(?:_\.)?(\w+)$", ALLOWED.read_text(encoding="utf-8"), re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "vulture", "src", "--ignore-names", "run_*"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    unused = set(re.findall(r"unused \w+ '(\w+)'", done.stdout))
    assert len(allowed) > 20
    assert sorted(set(allowed) - unused) == []
