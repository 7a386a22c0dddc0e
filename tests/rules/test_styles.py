"""Style sheets: each colour stands once, for both themes."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHEETS = sorted((ROOT / "static" / "css").glob("*.css"))
PROPERTY = re.compile(r"^\s*(--[\w-]+):\s*([^;]+);", re.MULTILINE)
COLOUR = re.compile(r"#[0-9a-f]{3,8}\b|\b(?:rgb|hsl)a?\(", re.IGNORECASE)


def properties() -> list[tuple[str, str]]:
    """Return name and value of each custom property that stands on a line of its own."""
    return [found for sheet in SHEETS for found in PROPERTY.findall(sheet.read_text(encoding="utf-8"))]


def test_each_custom_property_has_one_value() -> None:
    counts = Counter(name for name, _ in properties())
    assert len(counts) > 20
    assert [name for name, times in counts.items() if times > 1] == []


def test_each_colour_has_a_light_and_a_dark_form() -> None:
    colours = [(name, value) for name, value in properties() if COLOUR.search(value)]
    assert len(colours) > 20
    assert [name for name, value in colours if "light-dark(" not in value] == []
