"""docs/report.md runs as it stands, and what it says of comparing holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dst.analysis.differences import RESAMPLES
from dst.report.sections import SECTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "report.md"


def test_the_page_s_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert "LD differs by" in capsys.readouterr().out
    assert (tmp_path / "comparison.html").exists()


def test_the_page_names_the_sections_in_their_order() -> None:
    text = PAGE.read_text("utf-8")
    table = text[text.index("| section | says |") : text.index("A section whose result")]
    titles = [section.title for section in SECTIONS if isinstance(section.title, str)]
    places = [table.index(title) for title in titles]
    assert places == sorted(places)
    assert f"over {RESAMPLES} resamples" in text
