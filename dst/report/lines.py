"""Lines of a terminal: pieces of text with a style, wrapped, cut and filled to columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from dst.plot.text import visible

STYLES = {
    "contextual": "38;5;32",
    "associative": "38;5;166",
    "bold": "1",
    "dim": "2",
    "warning": "1;38;5;166",
}

Piece = tuple[str, str]
"""Text and the style it is shown in ("" for none)."""


def wrapped(text: str, width: int, style: str = "", indent: int = 0) -> list[list[Piece]]:
    """One text of one style set into lines, its control characters shown."""
    return filled([[(visible(part), style)] for part in text.split()], width, indent)


def filled(words: Iterable[list[Piece]], width: int, indent: int) -> list[list[Piece]]:
    """Words set into lines of at most ``width`` columns; a longer word is cut."""
    lines: list[list[Piece]] = []
    used = width
    for word in words:
        pieces: list[Piece] = []
        size = 0
        for text, style in word:
            pieces.append((cut(text, width - indent - size), style))
            size += cells(pieces[-1][0])
        if not lines or used + 1 + size > width:
            lines.append([(" " * indent, "")] if indent else [])
            used = indent
        else:
            # A space between two words of one style takes it too, so that it is painted once.
            lines[-1].append((" ", pieces[0][1] if pieces[0][1] == lines[-1][-1][1] else ""))
            used += 1
        lines[-1].extend(pieces)
        used += size
    return lines


def painted(line: Sequence[Piece], colour: bool) -> str:
    """A line as text, with terminal colours or without."""
    if not colour:
        return "".join(text for text, _ in line)
    merged: list[Piece] = []
    for text, style in line:
        if merged and merged[-1][1] == style:
            merged[-1] = (merged[-1][0] + text, style)
        else:
            merged.append((text, style))
    return "".join(
        f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style else text for text, style in merged
    )


def side(value: float) -> str:
    """The style of a value in logits: whose side it is on, "" for neither."""
    return "contextual" if value > 0 else "associative" if value < 0 else ""


def cells(text: str) -> int:
    """Columns that ``text`` takes: two for wide East Asian characters, none for accents."""
    return sum(map(_columns, text))


def cut(text: str, room: int) -> str:
    """``text``, or as much of it as ``room`` columns hold, with an ellipsis."""
    if room < 1:
        return ""
    used, fits = 0, 0  # columns so far; characters that fit with an ellipsis behind them
    for place, char in enumerate(text):
        used += _columns(char)
        if used > room:
            return text[:fits] + "…"
        if used < room:
            fits = place + 1
    return text


def fit(text: str, room: int) -> str:
    """``text`` cut or filled to exactly ``room`` columns."""
    text = cut(text, room)
    return text + " " * (room - cells(text))


def _columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
