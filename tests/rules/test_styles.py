"""Style sheets, templates and scripts: colours, classes and thresholds are defined once."""

import re
from collections import Counter
from pathlib import Path

from vantage.web import render
from vantage.web.pages import waterfall

ROOT = Path(__file__).resolve().parents[2]
SHEETS = sorted((ROOT / "static" / "css").glob("*.css"))
PROPERTY = re.compile(r"^\s*(--[\w-]+):\s*([^;]+);", re.MULTILINE)
COLOUR = re.compile(r"#[0-9a-f]{3,8}\b|\b(?:rgb|hsl)a?\(", re.IGNORECASE)


def properties() -> list[tuple[str, str]]:
    """Return name and value of each custom property that stands on a line of its own."""
    return [pair for sheet in SHEETS for pair in PROPERTY.findall(sheet.read_text(encoding="utf-8"))]


def test_each_custom_property_has_one_value() -> None:
    counts = Counter(name for name, _ in properties())
    assert len(counts) > 20
    assert [name for name, times in counts.items() if times > 1] == []


def test_each_colour_has_a_light_and_a_dark_form() -> None:
    colours = [(name, value) for name, value in properties() if COLOUR.search(value)]
    assert len(colours) > 20
    assert [name for name, value in colours if "light-dark(" not in value] == []


def classes_numbered(letter: str) -> set[str]:
    sheets = "\n".join(sheet.read_text(encoding="utf-8") for sheet in SHEETS)
    return set(re.findall(rf"\.({letter}\d+) \{{", sheets))


def test_each_colour_of_a_service_and_each_depth_of_a_span_has_its_class() -> None:
    assert classes_numbered("c") == {f"c{number}" for number in range(render.COLOURS)}
    assert classes_numbered("d") == {f"d{number}" for number in range(1, waterfall.INDENT_MAX + 1)}


def test_no_threshold_of_errors_stands_outside_python() -> None:
    """Templates and scripts compare with names and classes, never with a share or a percentage of their own."""
    files = [*(ROOT / "templates").rglob("*.html"), *(ROOT / "static" / "js").glob("*.js")]
    assert len(files) > 10
    compared = re.compile(r"(?:ratio|share|change)\w*(?:\|\w+)*\s*[<>]=?\s*-?[\d.]*\d")
    assert [f"{file.name}: {hit}" for file in files for hit in compared.findall(file.read_text(encoding="utf-8"))] == []
