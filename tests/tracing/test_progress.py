"""The line that shows how long a run still takes: on a terminal only, and gone afterwards."""

from __future__ import annotations

import io
import sys
import time

import pytest

from dst.tracing import progress as module
from dst.tracing.progress import progress


class Terminal(io.StringIO):
    """An error stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, show: bool = True) -> str:
    """What a run of half a second writes to the error stream."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setenv("COLUMNS", "80")
    with progress("two pathways", 5, show=show) as tick:
        for _ in range(5):
            time.sleep(0.12)
            tick(1)
    return stream.getvalue()


def test_nothing_is_drawn_where_the_error_stream_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert drawn(monkeypatch, io.StringIO()) == ""


def test_nothing_is_drawn_if_it_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, Terminal(), show=False) == ""


def test_on_a_terminal_the_line_is_drawn_and_gone_when_the_work_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = drawn(monkeypatch, Terminal())
    assert "two pathways" in written
    shown, column = [" "] * 200, 0
    for char in written:  # what a terminal would show in the end
        if char == "\r":
            column = 0
            continue
        shown[column], column = char, column + 1
    assert "".join(shown).strip() == ""


def test_short_work_shows_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("two pathways", 5) as tick:
        tick(5)
    assert "two pathways" not in stream.getvalue()


def test_work_inside_work_draws_no_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with progress("cases", 2) as outer:
        for _ in range(2):
            with progress("two pathways", 1) as inner:
                time.sleep(0.12)
                inner(1)
            outer(1)
    assert "cases" in stream.getvalue()
    assert "two pathways" not in stream.getvalue()
    with progress("afterwards", 1) as tick:
        time.sleep(0.12)
        tick(1)
    assert "afterwards" in stream.getvalue()
