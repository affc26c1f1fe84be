"""The report in a few lines of a terminal: answer, strip, scores, marks, verdict.

Nothing that a prompt or a model says reaches the terminal as a control character.
"""

from __future__ import annotations

from dst.core.carriers import separator
from dst.core.results import Report
from dst.plot.text import number, probability, visible, word
from dst.plot.tokens import role_kind
from dst.report.lines import Piece, cells, filled, fit, painted, side, wrapped
from dst.report.rows import causes, headline, strip, unanswered
from dst.report.terminal_concepts import concept_lines
from dst.report.terminal_numbers import flow_lines, mark_lines, score_lines

_MOST_STATES, _MOST_PROMPT_LINES = 9, 5
_NOT_MEASURED = "two pathways were not measured"
_BRACKETS = {"subject": ("<", ">", "associative"), "cue": ("[", "]", "contextual")}
# One character for one, so that columns stay in place.
_ASCII = str.maketrans("−→←·…│█▌▐▁▂▃▄▅▆▇×—’␣±", "-><.~|###_.,-=+*x-'_~")


def render_text(report: Report, *, colour: bool, width: int, ascii_only: bool = False) -> str:
    """A report in about 30 lines: prompt, answer, layers, flows, scores, marks, verdict.

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
        flow_lines(report.pathways, width) if report.pathways else [],
        [*score_lines(report.coherence.scores, width), *mark_lines(report, width)],
        concept_lines(report, width),
        [*_verdict(report, width), *_notes(report, width)],
    )
    lines = "\n\n".join(
        "\n".join(painted(line, colour).rstrip() for line in block) for block in blocks if block
    )
    return (in_ascii(lines) if ascii_only else lines) + "\n"


def in_ascii(text: str) -> str:
    """``text`` in ASCII, one character for one where we know it."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode()


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
    style = {"hallucination": "associative", "correct": "contextual"}.get(report.outcome, "bold")
    return [*words, [("→", "dim")], [(word(report.answer), style)]]


def _answer(report: Report, width: int) -> list[list[Piece]]:
    ld = report.trace.contrast
    shown: list[Piece] = [("   LD ", ""), (f"{number(ld)} logits", side(ld))]
    line: list[Piece] = [
        ("  <subject> [cue]", "dim"),
        (f"   p {probability(report.answer_prob)}", ""),
        *([] if report.pathways else shown),  # with them LD has a line of its own
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
                (f"{number(row.margin):>8}", side(row.margin)),
            ]
        )
    return lines


def _bar(share: float, half: int) -> tuple[str, str]:
    """A bar to the left (negative) or right of the axis, in steps of half a cell."""
    halves = round(abs(share) * half * 2)
    if share < 0:
        return ("▐" * (halves % 2) + "█" * (halves // 2)).rjust(half), " " * half
    return " " * half, ("█" * (halves // 2) + "▌" * (halves % 2)).ljust(half)


def _verdict(report: Report, width: int) -> list[list[Piece]]:
    return [line for text in causes(report) for line in wrapped(text, width)]


def _notes(report: Report, width: int) -> list[list[Piece]]:
    """Why the two pathways are missing, if they are; how many notes the page has besides."""
    why = [note for note in report.notes if _NOT_MEASURED in note and not report.pathways]
    lines = [line for note in why for line in wrapped(f"note: {note}", width, "dim")]
    if count := len(report.notes) - len(why):
        more = "more " if why else ""
        lines.append([(f"{count} {more}note{'s' if count > 1 else ''} in the report", "dim")])
    return lines
