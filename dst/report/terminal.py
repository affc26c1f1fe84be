"""The report in a few lines of a terminal: answer, strip, scores, marks, verdict.

Nothing that a prompt or a model says reaches the terminal as a control character.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dst.core.results import Mark, Report, Score
from dst.plot.text import number, probability, visible, word
from dst.plot.tokens import role_kind, separator
from dst.report.lines import Piece, cells, cut, filled, fit, painted, wrapped
from dst.report.rows import headline, mark_interval, strip, unanswered

_MOST_STATES, _MOST_SPARKS, _MOST_PROMPT_LINES, _MOST_NOTES = 9, 24, 5, 2
_SPARKS = "▁▂▃▄▅▆▇█"
_BRACKETS = {"subject": ("<", ">", "associative"), "cue": ("[", "]", "contextual")}
# One character for one, so that columns stay in place.
_ASCII = str.maketrans("−→←·…│█▌▐▁▂▃▄▅▆▇×—’␣", "-><.~|###_.,-=+*x-'_")


def render_text(report: Report, *, colour: bool, width: int, ascii_only: bool = False) -> str:
    """A report in about 30 lines: prompt, answer, layers, scores, marks, verdict.

    Args:
        report: What to tell.
        colour: Use terminal colours; nothing is said by colour alone.
        width: Columns to fill; under 72 is taken as 72.
        ascii_only: Use ASCII only, for terminals with another encoding.
    """
    width = max(width, 72)
    blocks = (
        wrapped(headline(report), width, "bold"),
        [*_prompt(report, width), *_answer(report, width)],
        _strip(report, width),
        _scores(report.coherence.scores, width),
        _marks(report.markers.marks, width),
        [*_verdict(report, width), *_notes(report, width)],
    )
    lines = "\n\n".join(
        "\n".join(painted(line, colour).rstrip() for line in block) for block in blocks if block
    )
    if ascii_only:
        lines = lines.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    return lines + "\n"


# -- the parts ---------------------------------------------------------------------------


def _prompt(report: Report, width: int) -> list[list[Piece]]:
    """The prompt as it was run: ``<subject>``, ``[cue]``."""
    lines = filled(_words(report), width, indent=2)
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
    return [line, *(wrapped(warning, width, "warning", indent=2) if warning else [])]


def _strip(report: Report, width: int) -> list[list[Piece]]:
    rows = strip(report.lens, _MOST_STATES)
    n_states = len(report.lens.margin)
    said = min(max(cells(row.word) for row in rows), 16)
    said = max(said, 4)
    half = (width - 17 - said - 16) // 2
    what = f"{len(rows)} of {n_states} states" if len(rows) < n_states else "state"
    lines: list[list[Piece]] = [
        [
            (fit(what, 17) + fit("says", said) + "     p ", "dim"),
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
                (fit(row.name, 17), "dim"),
                (fit(row.word, said), "bold"),
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
    """A row per score with its curve; scores that are nowhere defined are listed by reason."""
    if not scores:
        return []
    name = max(len(visible(score.name)) for score in scores) + 2
    lines: list[list[Piece]] = [[(fit("score", name) + "   total  by state", "dim")]]
    undefined: dict[str, list[str]] = {}
    for score in scores:
        if len(set(score.reasons)) == 1 and score.reasons[0]:
            undefined.setdefault(score.reasons[0], []).append(score.name)
            continue
        spark = _spark(score)
        reason = score.reasons[-1] if math.isnan(score.total) else ""
        tail = reason or ("" if score.unit == "1" else score.unit)
        lines.append(
            [
                (fit(visible(score.name), name), ""),
                (f"{number(score.total):>8}  ", "bold"),
                (spark, ""),
                ("  " + cut(visible(tail), width - name - 12 - len(spark)), "dim"),
            ]
        )
    told = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in undefined.items())
    return lines + (wrapped(f"undefined: {told}", width, "dim") if told else [])


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
    """A row per definition: its marks with their states, then those that are absent, and why."""
    if not marks:
        return []
    groups: dict[str, list[Mark]] = {}
    for mark in marks:
        groups.setdefault(mark.definition, []).append(mark)
    longest = max(cells(visible(text)) for text in (*groups, "definition"))
    room = min(longest, width // 2) + 2
    lines: list[list[Piece]] = [
        [(fit("definition", room) + f"marks, at state 0..{marks[0].n_layers}", "dim")]
    ]
    for definition, group in groups.items():
        there = ", ".join(_placed(mark) for mark in group if not mark.reason)
        absent = ", ".join(
            f"no {visible(mark.name)} ({visible(mark.reason)})" for mark in group if mark.reason
        )
        there = cut(there, width - room)
        gap = "; " if there and absent else ""
        lines.append(
            [
                (fit(visible(definition), room), ""),
                (there, "bold"),
                (cut(gap + absent, width - room - cells(there)), "dim"),
            ]
        )
    return lines


def _placed(mark: Mark) -> str:
    interval = mark_interval(mark)
    return f"{visible(mark.name)} {mark.state:g}" + (f" ({interval})" if interval else "")


def _verdict(report: Report, width: int) -> list[list[Piece]]:
    return [line for text in report.verdict[1:] for line in wrapped(text, width)]


def _notes(report: Report, width: int) -> list[list[Piece]]:
    notes = [f"note: {visible(note)}" for note in report.notes]
    shown = [[(cut(note, width), "dim")] for note in notes[:_MOST_NOTES]]
    more = len(notes) - _MOST_NOTES
    return shown + ([[(f"… and {more} more notes in the report", "dim")]] if more > 0 else [])


def _side(value: float) -> str:
    return "contextual" if value > 0 else "associative" if value < 0 else ""


def _side_of(report: Report) -> str:
    return {"hallucination": "associative", "correct": "contextual"}.get(report.outcome, "")
