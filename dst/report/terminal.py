"""The report in a few lines of a terminal: answer, strip, scores, marks, verdict.

Nothing that a prompt or a model says reaches the terminal as a control character.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence

from dst.core.results import Mark, Report, Score
from dst.plot.text import number, probability, state_name, visible, word
from dst.plot.tokens import role_kind, separator
from dst.report.rows import headline, split_notes, strip, unanswered

_MOST_STATES, _MOST_SPARKS, _MOST_PROMPT_LINES, _MOST_NOTES = 9, 24, 5, 2
_SPARKS = "▁▂▃▄▅▆▇█"
_STYLES = {
    "contextual": "38;5;32",
    "associative": "38;5;166",
    "bold": "1",
    "dim": "2",
    "warning": "1;38;5;166",
}
_BRACKETS = {"subject": ("<", ">", "associative"), "cue": ("[", "]", "contextual")}
# One character for one, so that columns stay in place.
_ASCII = str.maketrans("−→←·…│█▌▐▁▂▃▄▅▆▇×—’␣", "-><.~|###_.,-=+*x-'_")

Piece = tuple[str, str]
"""Text and the style it is shown in ("" for none)."""


def render_text(report: Report, *, colour: bool, width: int, ascii_only: bool = False) -> str:
    """A report in about 30 lines: prompt, answer, layers, scores, marks, verdict.

    Args:
        report: What to tell.
        colour: Use terminal colours; nothing is said by colour alone.
        width: Columns to fill; under 60 is taken as 60.
        ascii_only: Use ASCII only, for terminals with another encoding.
    """
    width = max(width, 60)
    blocks = (
        _wrapped(headline(report), width, "bold"),
        [*_prompt(report, width), *_answer(report, width)],
        _strip(report, width),
        _scores(report.coherence.scores, width),
        _marks(report.markers.marks, width),
        [*_verdict(report, width), *_notes(report, width)],
    )
    lines = "\n\n".join(
        "\n".join(_painted(line, colour).rstrip() for line in block) for block in blocks if block
    )
    if ascii_only:
        lines = lines.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    return lines + "\n"


# -- the parts ---------------------------------------------------------------------------


def _prompt(report: Report, width: int) -> list[list[Piece]]:
    """The prompt as it was run: ``<subject>``, ``[cue]``."""
    lines = _filled(_words(report), width, indent=2)
    if len(lines) > _MOST_PROMPT_LINES:
        hidden = len(lines) - _MOST_PROMPT_LINES + 1
        lines = [*lines[:2], [(f"  … {hidden} more lines …", "dim")], *lines[2 + hidden :]]
    return lines


def _words(report: Report) -> list[list[Piece]]:
    """The tokens' text, brackets around each mention, cut into words at white space."""
    trace = report.trace
    gap = separator(trace.tokens)
    words: list[list[Piece]] = [[]]
    for i, (token, role) in enumerate(zip(trace.tokens, trace.roles, strict=True)):
        text = gap + token if i else token
        left, right, style = _BRACKETS.get(role_kind(role), ("", "", ""))
        opens = i == 0 or trace.roles[i - 1] != role
        closes = i + 1 == len(trace.roles) or trace.roles[i + 1] != role
        if text[:1].isspace():
            words.append([])
        parts = text.split()
        for k, part in enumerate(parts):
            if k:
                words.append([])
            shown = (left if opens and k == 0 else "") + visible(part)
            words[-1].append((shown + (right if closes and k == len(parts) - 1 else ""), style))
        if parts and text[-1:].isspace():
            words.append([])
    words = [piece for piece in words if piece]
    side = _side_of(report)
    return [*words, [("→", "dim")], [(word(report.answer), side or "bold")]]


def _answer(report: Report, width: int) -> list[list[Piece]]:
    ld = report.trace.contrast
    line: list[Piece] = [
        ("  <subject> [cue]", "dim"),
        (f"   p {probability(report.answer_prob)}", ""),
        ("   LD ", ""),
        (f"{number(ld)} logits", _side(ld)),
        (f"   p(A+)+p(A-) {probability(float(report.lens.answer_prob[-1]))}", ""),
    ]
    warning = unanswered(report)
    return [line, *(_wrapped(warning, width, "warning", indent=2) if warning else [])]


def _strip(report: Report, width: int) -> list[list[Piece]]:
    rows = strip(report.lens, _MOST_STATES)
    n_states = len(report.lens.margin)
    said = min(max(_cells(row.word) for row in rows), 16)
    said = max(said, 4)
    half = max((width - 17 - said - 6 - 9) // 2, 6)
    what = f"{len(rows)} of {n_states} states" if len(rows) < n_states else "state"
    lines: list[list[Piece]] = [
        [
            (_fit(what, 17) + _fit("says", said) + "     p ", "dim"),
            ("associative".rjust(half)[-half:], "associative"),
            (" ", ""),
            ("contextual".ljust(half)[:half], "contextual"),
            ("      LD", "dim"),
        ]
    ]
    for row in rows:
        left, right = _bar(row.bar, half)
        lines.append(
            [
                (_fit(row.name, 17), "dim"),
                (_fit(row.word, said), "bold"),
                (f"{probability(row.prob):>6} ", ""),
                (left, "associative"),
                ("│", "dim"),
                (right, "contextual"),
                (f"{number(row.margin):>8}", _side(row.margin)),
            ]
        )
    return lines


def _bar(share: float, half: int) -> tuple[str, str]:
    """A bar to the left (negative) or right of the axis, in steps of half a cell."""
    halves = round(abs(share) * half * 2)
    if share < 0:
        return ("▐" * (halves % 2) + "█" * (halves // 2)).rjust(half), " " * half
    return " " * half, ("█" * (halves // 2) + "▌" * (halves % 2)).ljust(half)


def _scores(scores: Sequence[Score], width: int) -> list[list[Piece]]:
    if not scores:
        return []
    name = max(len(visible(score.name)) for score in scores) + 2
    lines: list[list[Piece]] = [
        [(_fit("score", name) + "   total  " + "by state", "dim")],
    ]
    for score in scores:
        spark = _spark(score)
        reason = score.reasons[-1] if score.reasons and math.isnan(score.total) else ""
        tail = reason or ("" if score.unit == "1" else score.unit)
        room = width - name - 10 - len(spark) - 2
        lines.append(
            [
                (_fit(visible(score.name), name), ""),
                (f"{number(score.total):>8}  ", "bold"),
                (spark, ""),
                ("  " + _cut(visible(tail), room), "dim"),
            ]
        )
    return lines


def _spark(score: Score) -> str:
    """The score over depth in eighths: a share of 0..1, else of the largest size, ± around 0."""
    count = len(score.value)
    every = -(-count // _MOST_SPARKS)
    picked = [float(value) for value in score.value[::-1][::every][::-1]]
    sizes = [abs(value) for value in picked if math.isfinite(value)]
    low, high = (0.0, 1.0) if score.unit == "share" else (-max(sizes or [1]), max(sizes or [1]))
    return "".join(_level(value, low, high or 1.0) for value in picked)


def _level(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "·"
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return _SPARKS[round(share * (len(_SPARKS) - 1))]


def _marks(marks: Sequence[Mark], width: int) -> list[list[Piece]]:
    if not marks:
        return []
    name = max(len(visible(mark.name)) for mark in marks) + 2
    places = ["none" if mark.reason else state_name(mark.state) for mark in marks]
    place = max(len(text) for text in (*places, "where of 100")) + 2
    where = f"where of {marks[0].n_layers}"
    lines: list[list[Piece]] = [[(_fit("mark", name) + _fit(where, place) + "definition", "dim")]]
    for mark, text in zip(marks, places, strict=True):
        tail = visible(mark.definition) + (f": {visible(mark.reason)}" if mark.reason else "")
        lines.append(
            [
                (_fit(visible(mark.name), name), ""),
                (_fit(text, place), "dim" if mark.reason else "bold"),
                (_cut(tail, width - name - place), "dim" if mark.reason else ""),
            ]
        )
    return lines


def _verdict(report: Report, width: int) -> list[list[Piece]]:
    return [line for text in report.verdict[1:] for line in _wrapped(text, width)]


def _notes(report: Report, width: int) -> list[list[Piece]]:
    _, notes = split_notes(report)
    shown = [[(_cut(f"note: {visible(note)}", width), "dim")] for note in notes[:_MOST_NOTES]]
    more = len(notes) - _MOST_NOTES
    return shown + ([[(f"… and {more} more notes in the report", "dim")]] if more > 0 else [])


# -- lines --------------------------------------------------------------------------------


def _side(value: float) -> str:
    return "contextual" if value > 0 else "associative" if value < 0 else ""


def _side_of(report: Report) -> str:
    return {"hallucination": "associative", "correct": "contextual"}.get(report.outcome, "")


def _wrapped(text: str, width: int, style: str = "", indent: int = 0) -> list[list[Piece]]:
    return _filled([[(visible(part), style)] for part in text.split()], width, indent)


def _filled(words: Iterable[list[Piece]], width: int, indent: int) -> list[list[Piece]]:
    """Words set into lines of at most ``width`` columns; a longer word is cut."""
    lines: list[list[Piece]] = []
    used = width
    for pieces in words:
        pieces = [(_cut(text, width - indent), style) for text, style in pieces]
        size = sum(_cells(text) for text, _ in pieces)
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


def _painted(line: Sequence[Piece], colour: bool) -> str:
    if not colour:
        return "".join(text for text, _ in line)
    merged: list[Piece] = []
    for text, style in line:
        if merged and merged[-1][1] == style:
            merged[-1] = (merged[-1][0] + text, style)
        else:
            merged.append((text, style))
    return "".join(
        f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style else text for text, style in merged
    )


def _cells(text: str) -> int:
    """Columns that ``text`` takes: two for wide East Asian characters, none for accents."""
    return sum(
        0
        if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(char) in "WF"
        else 1
        for char in text
    )


def _cut(text: str, room: int) -> str:
    """``text``, or as much of it as ``room`` columns hold, with an ellipsis."""
    if _cells(text) <= room:
        return text
    while text and _cells(text) > room - 1:
        text = text[:-1]
    return text + "…"


def _fit(text: str, room: int) -> str:
    """``text`` cut or filled to exactly ``room`` columns."""
    text = _cut(text, room)
    return text + " " * (room - _cells(text))
